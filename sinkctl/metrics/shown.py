"""What an attention layer did, as metrics look at it."""

from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from sinkctl.kernels.column_sums import AttentionSums
from sinkctl.metrics.cross import CrossView
from sinkctl.metrics.samples import Samples
from sinkctl.metrics.views import AttentionView, Known
from sinkctl.model.attention import sink_of
from sinkctl.model.handler import AttentionCall
from sinkctl.model.parallel import local

PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # weights that are what they say


def view_of(
    kind: type[AttentionView], shown: dict[str, Any], real_NT: Tensor, shared: Known, samples: Samples, channels: int,
    sharers: int,
) -> AttentionView:  # fmt: skip
    call, sums, sink = shown["call"], shown["sums"], sink_of(shown["call"].module)
    if sink is not None and sink.attends:  # its constant part is attention's output too, and no gate
        sums = sums._replace(out_BHTE=sink.added(sums.out_BHTE.transpose(1, 2)).transpose(1, 2))
    weight, kept = shown.get("weight"), shown.get("kept")
    if weight is not None and weight.shape[0] != channels:
        weight = kept = None  # not what writes into the residual stream
    apart = samples.apart
    asked = (lambda x, axis: x) if kind is CrossView else apart  # of queries, which have places of their own there
    *rows, received_BHS = sums
    return kind(
        q_NHTD=asked(call.q_BHTD, 2),
        k_NGTD=apart(call.k_BGTD, 2),
        v_NGTE=apart(call.v_BGTE, 2),
        sums=AttentionSums(*(asked(x, 2) for x in rows), apart(received_BHS, 2)),
        real_NT=real_NT,
        visible=shown["pattern"],
        scale=call.scale,
        softcap=call.softcap,
        sink_logit_H=apart(call.sink_logit_H, 2) if call.sink_key is not None else call.sink_logit_H,
        slope_H=call.slope_H,
        weigh=call.weigh,
        weighed_by=weighing_of(call),
        projection_CHE=weight,
        kept_NHTE=None if kept is None else asked(kept, 2),
        constant_HE=None if sink is None or sink.attends else sink.bias,
        sharers=sharers,
        groups=samples.groups,
        shared=shared,
    )


def by_head(module: nn.Module, heads: int, width: int) -> Tensor | None:
    """The weight of a linear layer, [C, H, E]; None where it is quantized, or not in memory."""
    with align_module_device(module):  # from the disk, where accelerate keeps it there
        weight = local(module.weight.detach())
    if (
        type(weight) is not Tensor
        or weight.dtype not in PLAIN
        or weight.device.type == "meta"
        or heads * width not in weight.shape
    ):
        return None
    return (weight if isinstance(module, nn.Linear) else weight.T).unflatten(1, (heads, width))


def weighing_of(call: AttentionCall) -> str | None:
    return None if call.weigh is None else sink_of(call.module).kind
