"""A decoder's predictions, with exact attention from which keys can be hidden.

N samples of one length, T tokens, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from sinkctl.errors import ModelError
from sinkctl.kernels.column_sums import AttentionSums, Visible
from sinkctl.metrics.observe import Attending, run
from sinkctl.metrics.samples import Samples
from sinkctl.model.attention import attached, sink_of
from sinkctl.model.handler import AttentionCall
from sinkctl.model.head import last_logits, token_nll

Seen = Callable[[Tensor, Tensor], Tensor]  # (query places [T, 1], key places [S]) → bool [T, S]


class NoInterface(ModelError):
    """No layer calls transformers' attention interface as such, so nothing can be hidden from one."""


class NextToken(NamedTuple):
    """What a decoder predicted."""

    nll_NT: Tensor  # of tokens 1 … T−1, nats: [N, T−1]
    last_NV: Tensor  # logits after the last token
    attentions: int  # softmax attentions that keys were hidden from


@dataclass
class _Counting(Attending):
    attentions: int = 0

    def attend(self, call: AttentionCall) -> Tensor:
        if getattr(sink_of(call.module), "kind", None) == "score_bias":
            raise NoInterface("score_bias acts on the first key a query sees, so a hidden one would pass it on")
        return super().attend(call)

    def seen(self, call: AttentionCall, sums: AttentionSums, pattern: Visible) -> None:
        self.attentions += 1


def decoded(model: PreTrainedModel, samples: Samples, also: Seen | None = None) -> tuple[ModelOutput, int]:
    """(the decoder's output, softmax attentions that asked); exact attention to the keys that `also` says are seen.

    Without `also` the model runs as it is. Raises NoInterface where no layer asks for attention.
    """
    if also is None:
        return run(model, samples), 0
    handler = _Counting(samples, also)
    with attached(model, handler):
        output = run(model, samples)
    if not handler.attentions:
        raise NoInterface(
            f"{model.config.model_type}: no layer calls transformers' attention interface, so no key can be hidden"
        )
    return output, handler.attentions


def next_token(model: PreTrainedModel, samples: Samples, also: Seen | None = None) -> NextToken:
    """NLL of every next token, and the logits after the last one; `also` and errors as in `decoded`."""
    assert samples.segment_BL is None, "samples of one length"
    ids_NT = samples.inputs["input_ids"]
    output, attentions = decoded(model, samples, also)
    last_NV = last_logits(model, output, ids_NT)
    output.last_hidden_state = output.last_hidden_state[:, :-1]
    return NextToken(token_nll(model, output, ids_NT[:, :-1], ids_NT[:, 1:]), last_NV, attentions)
