"""MPT (MosaicML 2023): ALiBi, one clipped projection for queries, keys and values."""

from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.model.families.base import Family
from sinkctl.model.handler import answered


class Mpt(Family):
    """MPT; positions are ALiBi (Press et al. 2021, arXiv 2108.12409)."""

    modules = ("MptAttention",)

    @staticmethod
    def forward(module: nn.Module, hidden_states: Tensor, position_bias: Tensor, **_) -> tuple[Tensor, None]:
        qkv = module.Wqkv(hidden_states)
        if module.clip_qkv:
            qkv = qkv.clamp(min=-module.clip_qkv, max=module.clip_qkv)
        q, k, v = (x.unflatten(-1, (module.n_heads, -1)).transpose(1, 2) for x in qkv.chunk(3, dim=-1))
        # The bias of the last position is 0, so that of the one before is the slope.
        out_BTHD = answered(module, q, k, v, None, module.softmax_scale, slope_H=-position_bias[:, 0, -2])
        return module.out_proj(out_BTHD.flatten(2)), None

    @staticmethod
    def check(model: PreTrainedModel) -> None:
        # The class of transformers (5.23) reads neither setting: it always computes ALiBi, and with 8. The checkpoint
        # that this concerns is MPT-7B-StoryWriter, trained with 16.
        asked = model.config.attn_config
        if not asked.alibi or asked.alibi_bias_max != 8:
            raise ModelError(
                f"its config asks for alibi={asked.alibi}, alibi_bias_max={asked.alibi_bias_max}, but transformers "
                "computes ALiBi with 8 whatever it says, so every loss would be that of another model"
            )
