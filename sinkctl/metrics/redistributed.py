"""Part of the first token's attention given to the tokens of an image.

B samples, H query heads, G key/value heads, T queries, S keys, E value width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sinkctl.kernels.column_sums import AttentionSums, Visible
from sinkctl.kernels.query_sums import attention_part
from sinkctl.metrics.observe import Attending
from sinkctl.model.handler import AttentionCall

FIRST, IMAGE = 0, 1  # among the kinds of keys


@dataclass
class ToImage(Attending):
    """Of every query that asks, `share` p of what it gives the first token goes to the image's, as they have it:

        A'_t1 = (1 − p) A_t1,   A'_tk = A_tk (1 + p A_t1 / Σ_image A_tj) for k in the image

    (after Kang et al. 2025, arXiv 2503.03321, who take it from every sink and in chosen heads). A query that gives the
    image nothing is left alone.
    """

    share: float = 0.5
    _sums: AttentionSums | None = None
    _pattern_seen: Visible | None = None

    def seen(self, call: AttentionCall, sums: AttentionSums, pattern: Visible) -> None:
        self._sums, self._pattern_seen = sums, pattern

    def attend(self, call: AttentionCall) -> Tensor:
        out_BHTE, groups = super().attend(call), self.samples.groups
        first = int(groups.asking_NT[0].to(torch.uint8).argmax())
        queries = slice(first, call.q_BHTD.shape[2])
        a_BHtS = attention_part(
            call.q_BHTD, call.k_BGTD, self._sums.lse_BHT, queries, slice(None), scale=call.scale,
            visible=self._pattern_seen, softcap=call.softcap, slope_H=call.slope_H,
        )  # fmt: skip
        image_S = (groups.of_NS[0, : queries.stop] == IMAGE).to(a_BHtS.dtype)
        image_BHtS = a_BHtS * image_S
        mass_BHt1 = image_BHtS.sum(-1, keepdim=True)
        given_BHt1 = torch.where(mass_BHt1 > 0, self.share * a_BHtS[..., :1], 0.0)
        change_BHtS = image_BHtS * (given_BHt1 / mass_BHt1.clamp(min=torch.finfo(a_BHtS.dtype).tiny))
        change_BHtS[..., :1] -= given_BHt1
        v_BHSE = call.v_BGTE.repeat_interleave(call.q_BHTD.shape[1] // call.v_BGTE.shape[1], dim=1)
        moved_BHtE = (change_BHtS @ v_BHSE.to(change_BHtS.dtype)).to(out_BHTE.dtype)
        return torch.cat([out_BHTE[:, :, :first], out_BHTE[:, :, first:] + moved_BHtE], dim=2)
