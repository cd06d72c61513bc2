"""The sink rate of a whole model, one number."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.kernels.column_sums import AttentionSums, Visible
from sinkctl.metrics.alpha import importance, sinking
from sinkctl.metrics.observe import Attending, run
from sinkctl.metrics.samples import laid_out
from sinkctl.model.attention import attached
from sinkctl.model.handler import AttentionCall
from sinkctl.model.parallel import all_heads
from sinkctl.model.parts import device_of

EPSILON, LENGTH = 0.3, 64


@dataclass
class _Importance(Attending):
    """Keeps α of every layer."""

    alpha_NHT: list[Tensor] = field(default_factory=list)

    def seen(self, call: AttentionCall, sums: AttentionSums, pattern: Visible) -> None:
        real_NT = self.samples.real(sums.received_BHS.shape[2], sums.received_BHS.device)
        received_NHT = all_heads(sums.received_BHS, self.sharers)
        self.alpha_NHT.append(importance(received_NHT, real_NT, pattern.causal).cpu())


def sink_rate(model: PreTrainedModel, ids_NT: Tensor, epsilon: float = EPSILON) -> float:
    """Sink_1^ε (Gu et al. 2024, arXiv 2410.10781): the share of (sample, layer, head) whose α_1 exceeds ε.

    ids_NT holds the samples, 64 tokens each in the published definition.
    """
    samples = laid_out(list(ids_NT.cpu()), device_of(model))
    handler = _Importance(samples)
    with attached(model, handler):
        run(model, samples)
    return float(torch.cat([sinking(alpha, epsilon)[..., 0] for alpha in handler.alpha_NHT], dim=1).mean())
