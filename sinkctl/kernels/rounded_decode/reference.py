"""The specification of `rounded_decode`, in plain torch.

Shapes: B rows, H query heads, G key/value heads (H is a multiple of G), F recent slots, N slots of groups, t tokens
whose keys are rounded together, K kept tokens, S sinks, J tokens in some form, D and E widths, n rotated pairs.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sinkctl.kernels.rotate import reference as rotation
from sinkctl.kernels.rounded_decode.quantize import Rounded, dequantize, quantize


class Store(NamedTuple):
    """One layer's keys, un-rotated, and values: the recent ones in full, the others rounded, and those kept in full.

    Token j is in recent slot j mod F. Its group γ = ⌊j/t⌋ is in slot γ where it holds one of the S sinks; the other
    groups take the other slots in turn.
    """

    recent_k_BGFD: Tensor
    recent_v_BGFE: Tensor
    k_codes: Tensor  # uint8 [B, G, N, t, bytes]
    k_scale: Tensor
    k_zero: Tensor
    v_codes: Tensor  # uint8 [B, G, N, 1, bytes]
    v_scale: Tensor
    v_zero: Tensor
    kept_k_BGKD: Tensor
    kept_v_BGKE: Tensor

    @property
    def k(self) -> Rounded:
        """Rounded keys."""
        return Rounded(self.k_codes, self.k_scale, self.k_zero)

    @property
    def v(self) -> Rounded:
        """Rounded values."""
        return Rounded(self.v_codes, self.v_scale, self.v_zero)


class Rule(NamedTuple):
    """Which tokens a query sees, and in which form (`cache/precision/settings.py`)."""

    bits: int | str
    together: int  # tokens whose keys are rounded together, each channel over all of them
    channels: int  # of a value, that share a range
    recent: int
    kept: int
    sinks: int
    window: int | None  # None: all of them


@dataclass(frozen=True, eq=False)
class Angles:
    """Cosines and sines of the angles of a·t and b positions, t tokens a group: a distance is a·t + b, b < t."""

    coarse_cos_An: Tensor
    coarse_sin_An: Tensor
    fine_cos_tn: Tensor
    fine_sin_tn: Tensor
    start: int
    interleaved: bool
    copies: dict[Any, Any] = field(default_factory=dict, repr=False)  # as an implementation wants them

    def of(self, distance_J: Tensor) -> tuple[Tensor, Tensor]:
        """Those of distances, [J, n]."""
        a, b = distance_J // len(self.fine_cos_tn), distance_J % len(self.fine_cos_tn)
        cos, sin, c, s = self.coarse_cos_An[a], self.coarse_sin_An[a], self.fine_cos_tn[b], self.fine_sin_tn[b]
        return cos * c - sin * s, sin * c + cos * s


def rounded_decode(
    q_BHD: Tensor,
    k_BGD: Tensor,
    v_BGE: Tensor,
    store: Store,
    t_B: Tensor,
    *,
    rule: Rule,
    angles: Angles,
    scale: float,
    sink_logit_H: Tensor | None = None,
    softcap: float | None = None,
    take: bool = True,
) -> Tensor:
    """One token a row: attends, then puts its key and value in the store, and rounds what is recent no more.

    Row b's token is number t_B[b] of its stream (int64). It sees the sinks, the W tokens before it and itself, each in
    the form that `Precision` states, under one softmax with the sink logit:

        out = Σ exp(s_j) v_j / (Σ exp(s_j) + exp(sink_logit)),  s_j = softcap·tanh(scale·q·k_j / softcap)

    q and k come un-rotated. Keys are dequantized, and turned back by their distance t − j; from t = S+W+1 on that of
    sink j is S+W−j (Xiao et al. 2023, arXiv 2309.17453, §3.2). Softmax in float32, or float64 for float64 inputs.
    `take` False: only attends, and leaves the row as a step that is done over finds it. Returns out_BHE.
    """
    rows = [
        _row(q_BHD[b], k_BGD[b], v_BGE[b], Store(*(x[b : b + 1] for x in store)), int(t_B[b]), rule, angles, take)(
            scale, sink_logit_H, softcap
        )
        for b in range(len(q_BHD))
    ]
    return torch.stack(rows).to(q_BHD.dtype)


def rounded(tokens: int, rule: Rule, together: int) -> int:
    """How many of the first tokens are rounded for the query that has seen so many before itself."""
    return max(0, tokens - rule.recent) // together * together


def _row(q_HD, k_GD, v_GE, store, t, rule, angles, take):
    """What attends for one row: called with scale, sink logit and softcap."""
    apart = rule.window is not None and rule.sinks > 0 and t > rule.sinks + rule.window
    first = 0 if rule.window is None else t - rule.window
    oldest = max(rule.sinks, first) if apart or not rule.sinks else 0
    number = [j for j in range(t + 1) if j >= oldest or (apart and j < rule.sinks)]
    distance = [rule.sinks + rule.window - j if apart and j < rule.sinks else t - j for j in number]
    k_GJD, v_GJE = held(store, k_GD, v_GE, t, rule, torch.tensor(number))
    cos, sin = angles.of(torch.tensor(distance, device=q_HD.device))
    k_GJD = rotation.rotate(k_GJD[None], cos, -sin, start=angles.start, interleaved=angles.interleaved)[0]
    if take:
        _take(store, k_GD, v_GE, t, rule)

    def attend(scale: float, sink_logit_H: Tensor | None, softcap: float | None) -> Tensor:
        (H, D), G = q_HD.shape, k_GJD.shape[0]
        precise = torch.promote_types(q_HD.dtype, torch.float32)
        score = (q_HD.view(G, H // G, D).to(precise) @ k_GJD.to(precise).mT) * scale
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        if sink_logit_H is not None:
            score = torch.cat([score, sink_logit_H.to(precise).view(G, H // G, 1)], dim=-1)
        weight = score.softmax(-1)[..., : len(number)]
        return (weight @ v_GJE.to(precise)).reshape(H, -1)

    return attend


def held(store: Store, k_GD: Tensor, v_GE: Tensor, t: int, rule: Rule, number_J: Tensor) -> tuple[Tensor, Tensor]:
    """Keys, un-rotated, and values of some tokens as the query number t sees them: [G, J, width] of one row."""
    found = []
    for recent, form, kept, new, together in (
        (store.recent_k_BGFD, store.k, store.kept_k_BGKD, k_GD, rule.together),
        (store.recent_v_BGFE, store.v, store.kept_v_BGKE, v_GE, 1),
    ):
        slot_J = slots(number_J // together, form.codes.shape[2], rule.sinks, together)
        of_group = (x[0][:, slot_J] for x in form)
        whole_GJtD = dequantize(Rounded(*of_group), rule.bits)
        x_GJD = whole_GJtD[:, torch.arange(len(number_J)), number_J % together]
        full = number_J >= rounded(t, rule, together)
        x_GJD[:, full] = recent[0][:, number_J[full] % recent.shape[2]]
        own = number_J < rule.kept
        x_GJD[:, own] = kept[0][:, number_J[own]]
        x_GJD[:, number_J == t] = new[:, None]
        found.append(x_GJD)
    return tuple(found)


def slots(group_J: Tensor, count: int, sinks: int, together: int) -> Tensor:
    """Where groups are, of `count` slots."""
    fixed = -(-sinks // together)
    return torch.where(group_J < fixed, group_J, fixed + (group_J - fixed) % max(1, count - fixed))


def _take(store: Store, k_GD: Tensor, v_GE: Tensor, t: int, rule: Rule) -> None:
    """Put token number t of one row in the store, and round what the next query sees rounded."""
    for recent, form, kept, new, together, channels in (
        (store.recent_k_BGFD, store.k, store.kept_k_BGKD, k_GD, rule.together, None),
        (store.recent_v_BGFE, store.v, store.kept_v_BGKE, v_GE, 1, rule.channels),
    ):
        recent[0, :, t % recent.shape[2]] = new
        if t < rule.kept:
            kept[0, :, t] = new
        done, end = rounded(t, rule, together), rounded(t + 1, rule, together)
        if end == done:
            continue
        number_t = torch.arange(done, end)
        x_GtD = recent[0][:, number_t % recent.shape[2]]
        ignored = (number_t < rule.kept).to(x_GtD.device) if channels is None else None
        slot = int(slots(torch.tensor(done // together), form.codes.shape[2], rule.sinks, together))
        for buffer, x in zip(form, quantize(x_GtD, rule.bits, channels, ignored), strict=True):
            buffer[0, :, slot] = x
