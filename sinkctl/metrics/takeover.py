"""Which key heads sink on once the first is hidden from them.

N samples, H query heads, T tokens, L attentions.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sinkctl.kernels.column_sums import AttentionSums, Visible
from sinkctl.metrics.alpha import followed, importance
from sinkctl.model.handler import AttentionCall


@dataclass
class SinkHeads:
    """Which heads of some samples sink on which key; `add` is a `next_token.Told`."""

    epsilon: float
    layers: list[int] = field(default_factory=list)  # of each attention
    sinking: list[Tensor] = field(default_factory=list)  # bool [N, H, T] an attention, False where too few come after

    def add(self, call: AttentionCall, sums: AttentionSums, pattern: Visible) -> None:
        received_NHT = sums.received_BHS
        real_NT = torch.ones(received_NHT[:, 0].shape, dtype=torch.bool, device=received_NHT.device)
        alpha_NHT = importance(received_NHT, real_NT, pattern.causal)
        counted_NT = followed(real_NT) if pattern.causal else real_NT
        self.sinking.append(((alpha_NHT > self.epsilon) & counted_NT[:, None]).cpu())
        self.layers.append(_number(call.module, len(self.layers)))

    @property
    def heads_NT(self) -> Tensor:
        """How many heads sink on each key."""
        return sum(x.sum(1) for x in self.sinking)

    @property
    def heads(self) -> int:
        """Of all attentions."""
        return sum(x.shape[1] for x in self.sinking)


@dataclass(frozen=True)
class Takeover:
    """The key that takes the first one's place, in each sample the one that gains most heads."""

    key_N: list[int]
    before: float  # share of heads that sink on it while the first key is seen
    after: float  # and when it is hidden
    layer: int | None  # the first where at least half of the heads that sank on the first key then sink on it


def takeover(plain: list[SinkHeads], hidden: list[SinkHeads]) -> Takeover | None:
    """Batch by batch, the same samples with the first key seen and hidden; None where no key gains any head."""
    keys, before, after, samples = [], 0, 0, 0
    moved, there = [0] * len(plain[0].sinking), [0] * len(plain[0].sinking)
    for was, now in zip(plain, hidden, strict=True):
        gain_NT = now.heads_NT - was.heads_NT
        gain_NT[:, 0] = 0
        key_N = gain_NT.argmax(-1)
        if not bool((gain_NT > 0).any()):
            key_N = torch.ones_like(key_N)
        rows = torch.arange(len(key_N))
        before += int(was.heads_NT[rows, key_N].sum())
        after += int(now.heads_NT[rows, key_N].sum())
        samples += len(key_N)
        keys += key_N.tolist()
        for number, (then_NHT, now_NHT) in enumerate(zip(was.sinking, now.sinking, strict=True)):
            sank_NH = then_NHT[..., 0]
            there[number] += int(sank_NH.sum())
            moved[number] += int((now_NHT[rows, :, key_N] & sank_NH).sum())
    if after <= before:
        return None
    layer = next((plain[0].layers[n] for n, count in enumerate(there) if count and 2 * moved[n] >= count), None)
    every = plain[0].heads * samples
    return Takeover(keys, before / every, after / every, layer)


def _number(module: torch.nn.Module, otherwise: int) -> int:
    number = getattr(module, "layer_idx", None)
    return number if isinstance(number, int) else otherwise
