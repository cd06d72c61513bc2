"""The later part of some samples, run alone against the keys and values that the part before it left.

A token's keys and values never depend on later tokens, so whatever is hidden from the later part alone leaves the
part before as it was: it is run once, and serves every variant. N samples of one length, T tokens, S keys.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.kernels.column_sums import Visible
from sinkctl.metrics.masked_attention import attends_plainly, masked_attention
from sinkctl.metrics.next_token import NextToken, Seen, predicted
from sinkctl.model.attention import attached, hidden_states
from sinkctl.model.handler import AttentionCall, Handler
from sinkctl.model.recurrent import recurrent_cache

# Mean difference in nats from which what a part of a pass gives is not what the whole does.
SAME, SAME_IN_HALF = 1e-3, 0.05


@dataclass
class Kept:
    """Keys and values of every attention, in the order of the calls: `keep` is a `next_token.Keep`."""

    first: int  # token of the later part
    layers: list[tuple[Tensor, Tensor, Visible]] = field(default_factory=list)  # [N, G, first, D], [N, G, first, E]

    def keep(self, call: AttentionCall, pattern: Visible) -> None:
        k, v = (x[:, :, : self.first].clone() for x in (call.k_BGTD, call.v_BGTE))
        self.layers.append((k, v, pattern))

    def of(self, rows: Sequence[int]) -> "Kept":
        """Those of some samples."""
        rows = list(rows)
        return Kept(self.first, [(k[rows], v[rows], pattern) for k, v, pattern in self.layers])


@dataclass
class _Continuing(Handler):
    kept: Kept
    first: int
    also: Seen | None
    calls: int = 0

    def attend(self, call: AttentionCall) -> Tensor:
        if self.calls == len(self.kept.layers) or not attends_plainly(call):
            raise ModelError("its later tokens attend in another way than all of them together")
        past_k, past_v, pattern = self.kept.layers[self.calls]
        self.calls += 1
        pasts = (x[:, :, : self.first] for x in (past_k, past_v))
        k, v = (torch.cat(pair, dim=2) for pair in zip(pasts, (call.k_BGTD, call.v_BGTE), strict=True))
        key_S = torch.arange(k.shape[2], device=k.device)
        query_T1 = key_S[self.first :, None]
        seen_TS = pattern.mask(query_T1, key_S)
        if self.also is not None:
            seen_TS = seen_TS & self.also(query_T1, key_S)
        return masked_attention(call, k, v, seen_TS)


def continued(
    model: PreTrainedModel, ids_NT: Tensor, kept: Kept, also: Seen | None = None, first: int | None = None
) -> NextToken:
    """`next_token(…, also, first=kept.first)`, of which only the tokens from `first` on are run: those before are as
    they were when their keys and values were kept. It is `kept.first`, or less.

    ids_NT are whole samples, on the model's device. Raises ModelError where the later part cannot be run alone.
    """
    if recurrent_cache(model) is not None:
        raise ModelError("its recurrent layers carry more than keys and values")
    first = kept.first if first is None else first
    position_NT = torch.arange(first, ids_NT.shape[1], device=ids_NT.device).expand(len(ids_NT), -1)
    handler = _Continuing(kept, first, also)
    with attached(model, handler):
        output = hidden_states(model, ids_NT[:, first:], position_NT)
    output.last_hidden_state = output.last_hidden_state[:, kept.first - first :]
    return predicted(model, output, ids_NT[:, kept.first :], handler.calls)


def same(model: PreTrainedModel, run: Callable[[], NextToken], whole: NextToken) -> tuple[bool, str]:
    """Whether what `run` makes of the first sample is what the whole pass made of it, and the reason."""
    try:
        part = run()
    except (ModelError, RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        return False, " ".join(str(error).split())[:120]
    apart = float((part.nll_NT - whole.nll_NT[:1]).abs().double().mean())
    half = next(model.parameters()).dtype in (torch.float16, torch.bfloat16)
    return apart <= (SAME_IN_HALF if half else SAME), f"{apart:.0e} nats from the whole, a mean over a sample"
