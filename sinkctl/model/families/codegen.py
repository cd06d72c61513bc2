"""CodeGen (Nijkamp et al. 2022, arXiv 2203.13474): as GPT-J, with one projection cut for four accelerators."""

from torch import Tensor, nn

from sinkctl.model.families.gptj import Tabulated
from sinkctl.model.handler import answered

SHARDS = 4  # as the stock class has it


class CodeGen(Tabulated):
    """CodeGen; each of four shards of the projection holds its heads' queries, values and keys, in that order."""

    modules = ("CodeGenAttention",)
    tables = ("CodeGenRotaryEmbedding",)

    @staticmethod
    def forward(module: nn.Module, hidden_states: Tensor, position_ids: Tensor, **_) -> tuple[Tensor, None]:
        shards = module.qkv_proj(hidden_states).unflatten(-1, (SHARDS, -1)).chunk(3, dim=-1)
        q, v, k = (module._split_heads(x, module.num_attention_heads, module.head_dim, mp_num=SHARDS) for x in shards)
        q, k = (Tabulated.turned(module, x, position_ids) for x in (q, k))
        out_BTHD = answered(module, q, k, v.transpose(1, 2), None, module.head_dim**-0.5)
        return module.out_proj(out_BTHD.flatten(2)), None
