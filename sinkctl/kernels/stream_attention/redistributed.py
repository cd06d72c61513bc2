"""`stream_attention` with part of the first key's weight given to the others. Shapes as in `reference.py`."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sinkctl.kernels.stream_attention.reference import Strip
from sinkctl.kernels.stream_attention.weighed import weighed


def redistributed(
    plain: Callable[..., Tensor],
    heads: Sequence[int],
    share: float,
    before: int,
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSE: Tensor,
    *,
    strip: Strip | None = None,
    sink_logit_H: Tensor | None = None,
    slope_H: Tensor | None = None,
    **common,
) -> Tensor:
    """As `plain`, an implementation of `reference.stream_attention`, but in `heads`, whose weights are `moved`.

    Every query must see the stream's first key, as number `before` of strip and band in a row; the keys of the strip
    before it are the layer's own. The other heads are what `plain` computes, to the last bit.
    """
    H, G = q_BHTD.shape[1], k_BGSD.shape[1]
    head_h = torch.tensor(heads, device=q_BHTD.device)
    group_h = head_h // (H // G)
    own_logit_h, own_slope_h = (None if x is None else x[head_h] for x in (sink_logit_H, slope_H))
    faced = strip and Strip(strip[0][:, head_h], strip[1][:, group_h], strip[2][:, group_h], strip.distance_N)
    out_BhTE = weighed(
        q_BHTD[:, head_h], k_BGSD[:, group_h], v_BGSE[:, group_h], strip=faced, slope_H=own_slope_h,
        weigh=partial(moved, share=share, before=before, sink_logit_H=own_logit_h), **common,
    )  # fmt: skip
    if len(heads) == H:
        return out_BhTE[:, head_h.argsort()]
    out_BHTE = plain(q_BHTD, k_BGSD, v_BGSE, strip=strip, sink_logit_H=sink_logit_H, slope_H=slope_H, **common)
    return out_BHTE.index_copy(1, head_h, out_BhTE)


def moved(
    score_BHTS: Tensor, seen_TS: Tensor, *, share: float, before: int = 0, sink_logit_H: Tensor | None = None
) -> Tensor:
    """The softmax a of the scores where seen, with `share` of the first key's weight given to the keys after it:

        a'_0 = (1 − share)·a_0,  a'_j = a_j·(1 + share·a_0 / Σ_{i>0} a_i)

    in proportion to their own (Yu et al. 2024, arXiv 2406.15765; Kang et al. 2025, arXiv 2503.03321), so that they sum
    to what they did. Key 0 stands in column `before`; what the columns before it and a learned sink logit take is left.
    A query that sees no key after it gives nothing away.
    """
    score_BHTS = score_BHTS.masked_fill(~seen_TS, -torch.inf)
    total_BHT1 = score_BHTS.logsumexp(-1, keepdim=True)
    if sink_logit_H is not None:
        total_BHT1 = torch.logaddexp(total_BHT1, sink_logit_H.to(score_BHTS.dtype)[:, None, None])
    weight_BHTS = (score_BHTS - total_BHT1).exp()
    others = score_BHTS[..., before + 1 :]
    rest_BHT1 = others.logsumexp(-1, keepdim=True)  # by itself: Σ a_i may be too small for a quotient
    alone = rest_BHT1.isneginf()
    given_BHT1 = (share * weight_BHTS[..., before : before + 1]).masked_fill(alone, 0)
    weight_BHTS[..., before + 1 :] += given_BHT1 * (others - rest_BHT1.masked_fill(alone, 0)).exp()
    weight_BHTS[..., before : before + 1] -= given_BHT1
    return weight_BHTS
