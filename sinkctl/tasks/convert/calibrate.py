"""Run a checkpoint over a few samples under the published rule with one sink, and keep what its layers do with it.

Shapes: B samples (1), H query heads, G key/value heads, T tokens, D key width, E value width, C hidden width.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sinkctl.cache.layers import kept_by
from sinkctl.cache.policies import SinkWindow
from sinkctl.errors import Interrupted
from sinkctl.metrics.first_token import FirstToken, Folded, ScoreRows
from sinkctl.model.attention import attached, hidden_states
from sinkctl.model.handler import AttentionCall, Handler
from sinkctl.model.load import LoadedModel
from sinkctl.model.positions import Rotation, rotate

# Rows of scores kept of a sample, where a mechanism asks for whole rows.
ROWS = 32


@dataclass
class _Kept:
    """What one layer showed of each sample."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    lses: list[Tensor] = field(default_factory=list)
    outs: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    rows: list[ScoreRows] = field(default_factory=list)
    folded: list[Folded] = field(default_factory=list)


class _FirstKeys(Handler):
    """Answers first tokens, which see themselves alone, and keeps the mean of their un-rotated keys by layer."""

    def __init__(self):
        self.key_GD: dict[int, Tensor] = {}

    def attend(self, call: AttentionCall) -> Tensor:
        self.key_GD[id(call.module)] = call.k_BGTD[:, :, 0].float().mean(0)
        return call.v_BGTE.repeat_interleave(call.q_BHTD.shape[1] // call.v_BGTE.shape[1], dim=1)


class _Calibrating(Handler):
    """Answers with the published rule, every token of a sample at once, and keeps the queries of a full cache."""

    def __init__(self, loaded: LoadedModel, window: int, whole_rows: bool, first_keys: dict[int, Tensor] | None):
        policy = SinkWindow(sinks=1, window=window)
        facts = loaded.layers(policy.reach)
        self._index = {id(layer.module): index for index, layer in enumerate(facts)}
        self._keeps = kept_by(policy, facts)
        self._rotations: list[Rotation | None] = [layer.rotation for layer in facts]
        self.kept = [_Kept() for _ in facts]
        self._whole_rows = whole_rows
        self._first_keys, self._read = first_keys, max(loaded.context or 0, sample_length(window))

    def attend(self, call: AttentionCall) -> Tensor:
        index = self._index[id(call.module)]
        keep, rotation = self._keeps[index], self._rotations[index]
        T, H, G = call.q_BHTD.shape[2], call.q_BHTD.shape[1], call.k_BGTD.shape[1]
        table = rotation and rotation.table(range(T), call.q_BHTD)
        q, k = (rotate(x, rotation, table) for x in (call.q_BHTD, call.k_BGTD))
        scores = _Scores(call.scale, call.softcap)
        score_HTS = scores(q[0], k[0])
        place_T = torch.arange(T, device=q.device)
        distance_TS = place_T[:, None] - place_T
        window = T if keep.window is None else keep.window
        score_HTS = score_HTS.masked_fill((distance_TS < 0) | (distance_TS > window), -torch.inf)
        v_HTE = call.v_BGTE[0].repeat_interleave(H // G, dim=0).to(score_HTS.dtype)
        if not keep.sinks:
            return (score_HTS.softmax(-1) @ v_HTE).to(q.dtype)[None]
        reach = keep.sinks + window
        facing_GD = call.k_BGTD[0, :, 0]
        if rotation is not None:
            facing_GD = rotate(call.k_BGTD[:, :, :1], rotation, rotation.table([-reach], q))[0, :, 0]
        first_HT = scores(call.q_BHTD[0], facing_GD[:, None])[..., 0]
        first_HT[:, : reach + 1] = scores(q[0, :, : reach + 1], k[0, :, :1])[..., 0]
        first_HT[:, 0] = -torch.inf  # itself: seen as the query's own key
        score_HTS[:, 1:, 0] = -torch.inf
        lse_HT = score_HTS.logsumexp(-1)
        out_HTE = (score_HTS - lse_HT[..., None]).exp() @ v_HTE
        if self._first_keys is not None:
            key_GD = slow_part(self._first_keys[id(call.module)].to(k), rotation, reach, self._read)
            lost_GTD = rotate(key_GD[None, :, None].expand_as(k).contiguous(), rotation, table)[0]
            less_HTS = scores(q[0], k[0] - lost_GTD)[:, reach + 1 :]
            less_HTS = less_HTS.masked_fill(score_HTS[:, reach + 1 :].isneginf(), -torch.inf)
            less_HT = less_HTS.logsumexp(-1)
            less = key_GD, less_HT, (less_HTS - less_HT[..., None]).exp() @ v_HTE
            self.kept[index].folded.append(Folded(*map(_plain, less)))
        self._keep(index, call, facing_GD, first_HT, lse_HT, out_HTE, score_HTS, reach + 1)
        share_HT1 = torch.sigmoid(first_HT - lse_HT)[..., None]
        return ((1 - share_HT1) * out_HTE + share_HT1 * v_HTE[:, :1]).to(q.dtype)[None]

    def hidden(self, index: int, x_BTC: Tensor) -> None:
        """What the projections of a layer take."""
        keep = self._keeps[index]
        if keep.sinks:
            self.kept[index].hidden.append(x_BTC[0, keep.sinks + keep.window + 1 :].float().cpu())

    def _keep(self, index, call, facing_GD, first_HT, lse_HT, out_HTE, score_HTS, full: int) -> None:
        kept = self.kept[index]
        rows = slice(full, None)
        if self._whole_rows:
            before = sum(score.shape[1] for score in kept.scores)
            kept.rows.append(
                ScoreRows(before, *(_plain(x) for x in (score_HTS[:, full : full + ROWS], call.v_BGTE[0])))
            )
        kept.keys.append(_plain(facing_GD))
        kept.values.append(_plain(call.v_BGTE[0, :, 0]))
        kept.scores.append(_plain(first_HT[:, rows]))
        kept.lses.append(_plain(lse_HT[:, rows]))
        kept.outs.append(_plain(out_HTE[:, rows]))


class _Scores:
    def __init__(self, scale: float, softcap: float | None):
        self.scale, self.softcap = scale, softcap

    def __call__(self, q_HTD: Tensor, k_GSD: Tensor) -> Tensor:
        precise = torch.promote_types(q_HTD.dtype, torch.float32)
        k_HSD = k_GSD.repeat_interleave(q_HTD.shape[0] // k_GSD.shape[0], dim=0)
        score_HTS = (q_HTD.to(precise) @ k_HSD.to(precise).mT) * self.scale
        return score_HTS if self.softcap is None else self.softcap * torch.tanh(score_HTS / self.softcap)


def slow_part(key_GD: Tensor, rotation: Rotation | None, reach: int, read: int) -> Tensor:
    """Of an un-rotated key at a distance of `reach` tokens, what turns by less than a radian over `read` tokens."""
    if rotation is None:
        return key_GD
    facing_GD = rotate(key_GD[None, :, None], rotation, rotation.table([-reach], key_GD))[0, :, 0]
    slow_n = rotation.inv_freq_n * read < 1
    turned = slow_n.repeat(2) if rotation.layout == "half" else slow_n.repeat_interleave(2)
    slow_D = torch.ones(key_GD.shape[-1])
    slow_D[rotation.start : rotation.start + len(turned)] = turned.float()
    return facing_GD * slow_D.to(facing_GD)


def sample_length(window: int) -> int:
    """Tokens of a sample, the first included: a full cache, and W queries on it."""
    return 2 * window + 2


@torch.no_grad()
def calibrate(
    loaded: LoadedModel,
    samples: Sequence[Tensor],
    window: int,
    *,
    whole_rows: bool = False,
    hidden: bool = False,
    folded: bool = False,
    progress: Callable[[float], None] = lambda share: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[FirstToken | None]:
    """What every softmax layer takes from the first token of `samples` (ids [T], of `sample_length`).

    `folded` asks for what queries see where keys lack a part of the first token's, too. None for a layer that a stream
    of 1+`window` gives no first token: its own window is as short. Raises ModelError for models that cannot be
    streamed, Interrupted where `stop` says so between two samples.
    """
    handler = _Calibrating(loaded, window, whole_rows, _first_keys(loaded, samples) if folded else None)
    with ExitStack() as stack:
        if hidden:
            for index, facts in enumerate(loaded.layers(window + 1)):

                def seen(_, args, kwargs, index=index) -> None:
                    handler.hidden(index, kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

                stack.enter_context(facts.module.register_forward_pre_hook(seen, with_kwargs=True))
        for number, ids_T in enumerate(samples):
            with attached(loaded.model, handler):
                hidden_states(loaded.model, ids_T[None].to(loaded.device))
            progress((number + 1) / len(samples))
            if stop():
                raise Interrupted("stopped")
    return [_record(kept) if kept.keys else None for kept in handler.kept]


def _first_keys(loaded: LoadedModel, samples: Sequence[Tensor]) -> dict[int, Tensor]:
    """The first tokens' mean key [G, D], by attention module."""
    handler = _FirstKeys()
    with attached(loaded.model, handler):
        hidden_states(loaded.model, torch.stack([ids_T[:1] for ids_T in samples]).to(loaded.device))
    return handler.key_GD


def _record(kept: _Kept) -> FirstToken:
    (key_GD, key_spread), (value_GE, value_spread) = (_mean(parts) for parts in (kept.keys, kept.values))
    return FirstToken(
        key_GD, value_GE, key_spread, value_spread, torch.cat(kept.scores, 1), torch.cat(kept.lses, 1),
        torch.cat(kept.outs, 1), torch.cat(kept.hidden) if kept.hidden else None, kept.rows,
        Folded(kept.folded[0].key_GD, *(torch.cat(parts, 1) for parts in list(zip(*kept.folded, strict=True))[1:]))
        if kept.folded else None,
    )  # fmt: skip


def _mean(parts: list[Tensor]) -> tuple[Tensor, float]:
    """(mean over samples, root mean square distance from it, relative to its length)"""
    stacked = torch.stack(parts)
    mean = stacked.mean(0)
    away = (stacked - mean).square().flatten(1).sum(1).mean().sqrt()
    return mean, float(away / mean.norm().clamp_min(1e-30))


def _plain(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float32)
