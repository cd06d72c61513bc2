"""BLOOM (BigScience 2022, arXiv 2211.05100): ALiBi, the residual added inside the attention module."""

from torch import Tensor, nn

from sinkctl.model.families.base import Family, alibi_slopes
from sinkctl.model.handler import answered
from sinkctl.model.undocumented import stock


class Bloom(Family):
    """BLOOM; positions are ALiBi (Press et al. 2021, arXiv 2108.12409)."""

    modules = ("BloomAttention",)

    @staticmethod
    def forward(module: nn.Module, hidden_states: Tensor, residual: Tensor, **_) -> tuple[Tensor, None]:
        q, k, v = module._reshape(module.query_key_value(hidden_states))
        slope_H = alibi_slopes(stock(module).build_alibi_tensor, module.num_heads, hidden_states.device)
        out_BTHD = answered(module, q, k, v, None, module.inv_norm_factor, slope_H=slope_H)
        return module.dense(out_BTHD.flatten(2)) + residual, None
