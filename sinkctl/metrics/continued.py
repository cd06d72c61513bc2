"""The later part of some samples, run alone against the keys and values that the part before it left.

A token's keys and values never depend on later tokens, so whatever is hidden from the later part alone leaves the
part before as it was: it is run once, and serves every variant. N samples of one length, T tokens, S keys.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.kernels.column_sums import AttentionSums, Visible
from sinkctl.metrics.masked_attention import attends_plainly, masked_attention
from sinkctl.metrics.next_token import NextToken, Seen, predicted
from sinkctl.model.attention import attached, hidden_states
from sinkctl.model.handler import AttentionCall, Handler
from sinkctl.model.recurrent import recurrent_cache

# Mean difference in nats from which a later part run alone is another one than that of the whole.
SAME, SAME_IN_HALF = 1e-3, 0.05


@dataclass
class Kept:
    """Keys and values of every attention, in the order of the calls: `keep` is a `next_token.Told`."""

    first: int  # token of the later part
    layers: list[tuple[Tensor, Tensor, Visible]] = field(default_factory=list)  # [N, G, first, D], [N, G, first, E]

    def keep(self, call: AttentionCall, _: AttentionSums, pattern: Visible) -> None:
        k, v = (x[:, :, : self.first].clone() for x in (call.k_BGTD, call.v_BGTE))
        self.layers.append((k, v, pattern))

    def row(self, n: int) -> "Kept":
        """Those of one sample."""
        return Kept(self.first, [(k[n : n + 1], v[n : n + 1], pattern) for k, v, pattern in self.layers])


@dataclass
class _Continuing(Handler):
    kept: Kept
    also: Seen | None
    calls: int = 0

    def attend(self, call: AttentionCall) -> Tensor:
        if self.calls == len(self.kept.layers) or not attends_plainly(call):
            raise ModelError("its later tokens attend in another way than all of them together")
        past_k, past_v, pattern = self.kept.layers[self.calls]
        self.calls += 1
        k, v = torch.cat([past_k, call.k_BGTD], dim=2), torch.cat([past_v, call.v_BGTE], dim=2)
        key_S = torch.arange(k.shape[2], device=k.device)
        query_T1 = key_S[self.kept.first :, None]
        seen_TS = pattern.mask(query_T1, key_S)
        if self.also is not None:
            seen_TS = seen_TS & self.also(query_T1, key_S)
        return masked_attention(call, k, v, seen_TS)


def continued(model: PreTrainedModel, ids_NT: Tensor, kept: Kept, also: Seen | None = None) -> NextToken:
    """`next_token(…, also, first=kept.first)` of a pattern that hides nothing from the tokens before `first`.

    ids_NT are whole samples, on the model's device. Raises ModelError where the later part cannot be run alone.
    """
    if recurrent_cache(model) is not None:
        raise ModelError("its recurrent layers carry more than keys and values")
    later_NT = ids_NT[:, kept.first :]
    position_NT = torch.arange(kept.first, ids_NT.shape[1], device=ids_NT.device).expand_as(later_NT)
    handler = _Continuing(kept, also)
    with attached(model, handler):
        output = hidden_states(model, later_NT, position_NT)
    return predicted(model, output, later_NT, handler.calls)


def runs_alone(model: PreTrainedModel, ids_NT: Tensor, kept: Kept, whole: NextToken) -> tuple[bool, str]:
    """Whether the later part run alone is that of the whole, tried on the first sample, and the reason."""
    try:
        alone = continued(model, ids_NT[:1], kept.row(0))
    except (ModelError, RuntimeError, TypeError, ValueError, IndexError) as error:
        return False, " ".join(str(error).split())[:120]
    apart = float((alone.nll_NT - whole.nll_NT[:1]).abs().double().mean())
    half = next(model.parameters()).dtype in (torch.float16, torch.bfloat16)
    return apart <= (SAME_IN_HALF if half else SAME), f"{apart:.0e} nats from the whole, a mean over a sample"
