"""A decoder's predictions, with exact attention from which keys can be hidden.

N samples of one length, T tokens, S keys, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from sinkctl.errors import ModelError
from sinkctl.kernels.column_sums import AttentionSums, Visible
from sinkctl.metrics.masked_attention import attends_plainly, masked_attention
from sinkctl.metrics.observe import Attending, run
from sinkctl.metrics.samples import Samples
from sinkctl.model.attention import attached, sink_of
from sinkctl.model.handler import AttentionCall
from sinkctl.model.head import last_logits, token_nll
from sinkctl.model.parallel import all_heads
from sinkctl.model.parts import attending_part

# (query places [T, 1], key places [S]) → bool [T, S], or [N, 1, T, S] where samples differ
Seen = Callable[[Tensor, Tensor], Tensor]
# Every layer's attention, in the order of the calls; of a model that processes share, what the keys of all heads got.
Told = Callable[[AttentionCall, AttentionSums, Visible], None]
Keep = Callable[[AttentionCall, Visible], None]  # the same before it is computed, without sums


class NoInterface(ModelError):
    """No layer calls transformers' attention interface as such, so nothing can be hidden from one."""


class NextToken(NamedTuple):
    """What a decoder predicted."""

    nll_NT: Tensor  # of the tokens after `first`, nats: [N, T − 1 − first]
    last_NV: Tensor  # logits after the last token
    attentions: int  # softmax attentions that keys were hidden from


@dataclass
class _Hiding(Attending):
    """Sums are made only for who is told of them."""

    told: Told | None = None
    keep: Keep | None = None
    attentions: int = 0

    def attend(self, call: AttentionCall) -> Tensor:
        if getattr(sink_of(call.module), "kind", None) == "score_bias":
            raise NoInterface("score_bias acts on the first key a query sees, so a hidden one would pass it on")
        pattern = self._pattern(call)
        if self.keep is not None:
            self.keep(call, pattern)
        if self.told is not None or not attends_plainly(call):
            return super().attend(call)
        self.attentions += 1
        place_T = torch.arange(call.q_BHTD.shape[2], device=call.q_BHTD.device)
        seen_TS = pattern.mask(place_T[:, None], place_T)
        return masked_attention(call, call.k_BGTD, call.v_BGTE, seen_TS)

    def seen(self, call: AttentionCall, sums: AttentionSums, pattern: Visible) -> None:
        self.attentions += 1
        if self.told is not None:
            received = all_heads(sums.received_BHS, self.sharers)
            self.told(call, sums._replace(received_BHS=received), pattern)


def decoded(
    model: PreTrainedModel, samples: Samples, also: Seen | None = None, told: Told | None = None,
    keep: Keep | None = None,
) -> tuple[ModelOutput, int]:  # fmt: skip
    """(the decoder's output, softmax attentions that asked); exact attention to the keys that `also` says are seen.

    Without any of the three the model runs as it is. Raises NoInterface where no layer asks for attention.
    """
    if also is None and told is None and keep is None:
        return run(model, samples), 0
    handler = _Hiding(samples, also, told=told, keep=keep)
    with attached(attending_part(model, samples.inputs), handler):
        output = run(model, samples)
    if not handler.attentions:
        raise NoInterface(
            f"{model.config.model_type}: no layer calls transformers' attention interface, so no key can be hidden"
        )
    return output, handler.attentions


def next_token(
    model: PreTrainedModel, samples: Samples, also: Seen | None = None, first: int = 0, told: Told | None = None,
    keep: Keep | None = None,
) -> NextToken:  # fmt: skip
    """NLL of every next token after `first`, and the logits after the last one; the rest as in `decoded`."""
    assert samples.segment_BL is None, "samples of one length"
    output, attentions = decoded(model, samples, also, told, keep)
    output.last_hidden_state = output.last_hidden_state[:, first:]
    return predicted(model, output, samples.inputs["input_ids"][:, first:], attentions)


def predicted(model: PreTrainedModel, output: ModelOutput, ids_NT: Tensor, attentions: int) -> NextToken:
    """What the decoder's output over these tokens says of all but the first of them, and of what follows."""
    last_NV = last_logits(model, output, ids_NT)
    output.last_hidden_state = output.last_hidden_state[:, :-1]
    return NextToken(token_nll(model, output, ids_NT[:, :-1], ids_NT[:, 1:]), last_NV, attentions)
