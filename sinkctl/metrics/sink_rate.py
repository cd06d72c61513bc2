"""How many heads sink on the first token.

B samples, H query heads, G key/value heads, T tokens.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.kernels.stream_attention import stream_attention
from sinkctl.model.attention import attached, hidden_states
from sinkctl.model.handler import AttentionCall, Handler
from sinkctl.model.probe import LayerFacts

EPSILON, LENGTH = 0.3, 64


@dataclass
class _FirstColumn(Handler):
    windows: dict[int, int | None]
    mass_BH: list[Tensor] = field(default_factory=list)

    def attend(self, call: AttentionCall) -> Tensor:
        """The reference attention, once for the output and once with the first key's indicator for a value."""
        options = dict(scale=call.scale, softcap=call.softcap, sink_logit_H=call.sink_logit_H, slope_H=call.slope_H)
        options["window"] = self.windows[id(call.module)]
        first = torch.zeros_like(call.v_BGTE[..., :1])
        first[:, :, 0] = 1
        self.mass_BH.append(stream_attention(call.q_BHTD, call.k_BGTD, first, **options)[..., 0].float().mean(-1))
        return stream_attention(call.q_BHTD, call.k_BGTD, call.v_BGTE, **options)


def sink_rate(model: PreTrainedModel, layers: list[LayerFacts], ids_BT: Tensor, epsilon: float = EPSILON) -> float:
    """Sink_0^ε (Gu et al. 2024, arXiv 2410.10781): the share of (sample, layer, head) whose α_0 exceeds ε.

    α_0 is the mean over queries of the attention to the first token; ids_BT holds the samples, 64 tokens each in the
    published definition.
    """
    handler = _FirstColumn({id(facts.module): facts.window for facts in layers})
    positions_BT = torch.arange(ids_BT.shape[1], device=model.device).expand_as(ids_BT)
    with attached(model, handler):
        hidden_states(model, ids_BT.to(model.device), positions_BT)
    return float((torch.stack([mass.cpu() for mass in handler.mass_BH]) > epsilon).float().mean())
