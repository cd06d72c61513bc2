"""What an attention layer asks for, and who answers it."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn


class SinkKey(NamedTuple):
    """A key of the layer's own that every query sees (a designed sink), facing the query before its rotation."""

    k_GD: Tensor
    v_GE: Tensor | None  # None: 0
    logit_BHT: Tensor  # its score, scaled and softcapped; float32 or wider

    def cut(self, rows: slice | Tensor, tokens: slice | Tensor) -> "SinkKey":
        """The same key for some of the queries."""
        return self._replace(logit_BHT=self.logit_BHT[rows][:, :, tokens])


@dataclass(frozen=True)
class AttentionCall:
    """What one attention layer asks for; B batch, H query heads, G key/value heads, T tokens, D and E widths."""

    module: nn.Module
    q_BHTD: Tensor
    k_BGTD: Tensor
    v_BGTE: Tensor
    mask: Tensor | None  # what `Handler.mask` returned for this layer's kind of mask
    scale: float
    softcap: float | None = None
    sink_logit_H: Tensor | None = None
    slope_H: Tensor | None = None  # ALiBi: scores fall by this much a token of distance
    sink_key: SinkKey | None = None
    weigh: Callable[[Tensor, Tensor], Tensor] | None = None  # (score_BHTS, seen) → weights, in place of softmax
    told_BT: Tensor | None = None  # bool, on the CPU: tokens of which a cache was told something

    def rows(self, rows: slice | Tensor) -> "AttentionCall":
        """The same call for some of its rows."""
        q, k, v = (x[rows] for x in (self.q_BHTD, self.k_BGTD, self.v_BGTE))
        return self._cut(q, k, v, rows, slice(None))

    def columns(self, columns: Tensor) -> "AttentionCall":
        """The same call for some of its tokens, by their places."""
        columns = columns.to(self.q_BHTD.device)
        q, k, v = (x.index_select(2, columns) for x in (self.q_BHTD, self.k_BGTD, self.v_BGTE))
        return self._cut(q, k, v, slice(None), columns)

    def tokens(self, first: int, end: int) -> "AttentionCall":
        """The same call for some of its tokens."""
        part = slice(first, end)
        q, k, v = (x[:, :, part] for x in (self.q_BHTD, self.k_BGTD, self.v_BGTE))
        return self._cut(q, k, v, slice(None), part)

    def _cut(self, q: Tensor, k: Tensor, v: Tensor, rows: slice | Tensor, tokens: slice | Tensor) -> "AttentionCall":
        key = None if self.sink_key is None else self.sink_key.cut(rows, tokens)
        told = self.told_BT
        if told is not None:
            rows, tokens = (x.cpu() if isinstance(x, Tensor) else x for x in (rows, tokens))
            told = told[rows][:, tokens]
        return replace(self, q_BHTD=q, k_BGTD=k, v_BGTE=v, sink_key=key, told_BT=told)


def places(real_BT: Tensor | None) -> list[list[int]] | None:
    """Each row's tokens that are no padding; None where all are."""
    if real_BT is None or bool(real_BT.all()):
        return None
    return [row.nonzero()[:, 0].tolist() for row in real_BT.cpu()]


class Handler:
    """Answers every attention layer of an attached model."""

    sharers = 1  # processes that have the model's heads between them; each is asked for its own

    def attend(self, call: AttentionCall) -> Tensor:
        """Return out_BHTE."""
        raise NotImplementedError

    def watched(self, model: nn.Module) -> list[tuple[nn.Module, Callable]]:
        """Modules of the model whose outputs it is to be shown, each with the forward hook that does so."""
        return []

    def room(self, module: nn.Module, tokens: int) -> Tensor | None:
        """Where the values of one row's next block may be written, [T, G·E], to be copied no more; None: anywhere."""
        return None

    def mask(self, mask_function: Callable, tokens: int, device: torch.device) -> Tensor:
        """Return what layers get for a mask among so many tokens; the default is a token that no handler reads."""
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


handling: ContextVar[Handler] = ContextVar("sinkctl_attention_handler")


@torch.compiler.disable  # handlers keep state, so a compiled layer calls them between its graphs
def answered(
    module: nn.Module,
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    v_BGTE: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None = None,
    sink_logit_H: Tensor | None = None,
    slope_H: Tensor | None = None,
    sink_key: SinkKey | None = None,
    weigh: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """The live handler's answer to an `AttentionCall` of these fields, token by token: out_BTHE, contiguous."""
    call = AttentionCall(module, q_BHTD, k_BGTD, v_BGTE, mask, scale, softcap, sink_logit_H, slope_H, sink_key, weigh)
    return handling.get().attend(call).transpose(1, 2).contiguous()
