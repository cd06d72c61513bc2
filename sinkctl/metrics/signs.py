"""What tokens put behind the first do to sinks: mass, value norms and activations, layer by layer.

Shapes: N samples, H query heads, G key/value heads, T tokens, E value width, C channels, F signs.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sinkctl.metrics.alpha import alpha
from sinkctl.metrics.views import AttentionView, BlockView, Scope

# (of what, in words); a layer has one of each.
SINK_MASS, OWN_MASS, SINK_VALUE, OWN_VALUE = "sink mass", "own mass", "value norm of the sink", "its own value norm"
SINK_ACTIVATION, OWN_ACTIVATION = "largest activation at the sink", "its own largest activation"
ELSEWHERE, LAST = "largest activation elsewhere", "norm of the last token"


@dataclass
class Signs:
    """A `metrics.observe.Measurer`: of every sample one number a sign and layer, by name and layer.

    Masses are means over heads, α of the first token and, added up, of the tokens put in; the others are logarithms of
    means over heads, or of largest sizes over channels. The tokens put in are those from `first` up to `end`.
    """

    first: int
    end: int
    found: dict[str, list[Tensor]] = field(default_factory=dict)  # name → [N] a layer

    def attention(self, layer: int, view: AttentionView) -> None:
        alpha_NT = alpha(view, Scope()).nanmean(1)
        size_NT = view.v_NGTE.float().norm(dim=-1).mean(1)
        self._add(SINK_MASS, alpha_NT[:, 0])
        self._add(OWN_MASS, alpha_NT[:, self.first : self.end].sum(1))
        self._add(SINK_VALUE, size_NT[:, 0].log())
        self._add(OWN_VALUE, size_NT[:, self.first : self.end].mean(1).log())

    def block(self, layer: int, view: BlockView) -> None:
        size_NTC = view.h_NTC.float().abs()
        most_NT = size_NTC.amax(-1).masked_fill(~view.real_NT, 0.0)
        self._add(SINK_ACTIVATION, most_NT[:, 0].log())
        self._add(OWN_ACTIVATION, most_NT[:, self.first : self.end].amax(1).log())
        self._add(ELSEWHERE, most_NT[:, self.end :].amax(1).log())
        last_N = view.real_NT.sum(1) - 1
        self._add(LAST, size_NTC[torch.arange(len(last_N)), last_N.cpu()].norm(dim=-1).log())

    def routed(self, layer: int, chosen_NTk: Tensor, experts: int, real_NT: Tensor) -> None:
        """Of no matter here."""

    def _add(self, name: str, x_N: Tensor) -> None:
        self.found.setdefault(name, []).append(x_N.double().cpu())
