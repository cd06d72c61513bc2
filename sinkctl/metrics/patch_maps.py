"""What a vision transformer shows of single images: norms of its tokens by layer, and where [CLS] looks.

Shapes: B images, L layers, T tokens, S keys, H heads, D head width, C channels.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from sinkctl.metrics.observe import blocks_of
from sinkctl.model.attention import attached
from sinkctl.model.handler import AttentionCall, Handler


class PatchMaps(NamedTuple):
    """Of some images; tokens as the blocks see them, [CLS] and registers in front, where there are any."""

    norm_LBT: Tensor  # after each block, float32
    cls_LBHS: Tensor | None  # attention of the first token, float32; None: the class calls no attention interface
    last_BTC: Tensor  # `last_hidden_state`
    output: Any  # what the model returned


@dataclass
class _Looking(Handler):
    """Answers with plain attention, and keeps what the first token attends to."""

    rows_BHS: list[Tensor] = field(default_factory=list)

    def attend(self, call: AttentionCall) -> Tensor:
        # Some add a bias by the patches' distance to scores (BEiT); the mask otherwise is our own token.
        bias = call.mask if call.mask is not None and call.mask.is_floating_point() else None
        score_BH1S = call.q_BHTD[:, :, :1].float() @ call.k_BGTD.float().mT * call.scale
        score_BH1S = score_BH1S if bias is None else score_BH1S + bias[..., :1, :]
        self.rows_BHS.append(score_BH1S.softmax(-1)[:, :, 0])
        return scaled_dot_product_attention(call.q_BHTD, call.k_BGTD, call.v_BGTE, bias, scale=call.scale)


@torch.no_grad()
def patch_maps(model: PreTrainedModel, pixels_BCHW: Tensor) -> PatchMaps:
    """One pass over the images; ModelError for a model whose blocks are not found."""
    looking, norms = _Looking(), []

    def seen(module: Any, inputs: tuple, output: Any) -> None:
        h_BTC = output[0] if isinstance(output, (tuple, list)) else output
        norms.append(h_BTC.float().norm(dim=-1))

    with attached(model, looking), ExitStack() as hooks:
        for block in blocks_of(model):
            hooks.enter_context(block.register_forward_hook(seen))
        output = model(pixels_BCHW.to(model.device, model.dtype), **_states(model))
    last_BTC = output.last_hidden_state if "last_hidden_state" in output else output.hidden_states[-1]
    cls_LBHS = torch.stack(looking.rows_BHS) if len(looking.rows_BHS) == len(norms) else None
    return PatchMaps(torch.stack(norms), cls_LBHS, last_BTC, output)


def _states(model: PreTrainedModel) -> dict[str, bool]:
    """A classifier returns no features unless asked."""
    return {"output_hidden_states": True} if hasattr(model, "classifier") else {}


def smoothness(feature_BPC: Tensor, columns: int) -> Tensor:
    """Mean cosine between the features of patches side by side and one above the other, [B]; `columns` a row."""
    unit_BRWC = torch.nn.functional.normalize(feature_BPC.float(), dim=-1).unflatten(1, (-1, columns))
    beside = (unit_BRWC[:, :, 1:] * unit_BRWC[:, :, :-1]).sum(-1).flatten(1)
    below = (unit_BRWC[:, 1:] * unit_BRWC[:, :-1]).sum(-1).flatten(1)
    return torch.cat([beside, below], dim=1).mean(1)
