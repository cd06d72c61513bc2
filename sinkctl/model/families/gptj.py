"""GPT-J (Wang & Komatsuzaki 2021): interleaved rotation from a table of sines and cosines that ends at the context.

Since transformers 5.24 its attention goes by the interface, and only the table, now a module of its own, is unlike
other families'.
"""

import torch
from torch import Tensor, nn

from sinkctl.model.families.base import Family
from sinkctl.model.handler import answered
from sinkctl.model.undocumented import stock


class Tabulated(Family):
    """Rotation by a table `embed_positions`, [positions, sines then cosines]."""

    @staticmethod
    def needed(module: nn.Module) -> bool:
        return hasattr(module, "embed_positions")

    @staticmethod
    def turned(module: nn.Module, x_BTHD: Tensor, position_ids: Tensor) -> Tensor:
        """Heads first, [B, H, T, D], rotated by the stock function."""
        sin_BTn, cos_BTn = module.embed_positions.to(x_BTHD.device)[position_ids].to(x_BTHD.dtype).chunk(2, dim=-1)
        rotated, rest = x_BTHD.tensor_split([module.pos_embd_dim], dim=-1)
        turned = stock(module).apply_rotary_pos_emb(rotated, sin_BTn, cos_BTn)
        return torch.cat([turned, rest], dim=-1).transpose(1, 2)

    @staticmethod
    def frequencies(module: nn.Module) -> Tensor:
        pairs = module.pos_embd_dim // 2
        return 10000.0 ** -(torch.arange(pairs, dtype=torch.float64) / pairs)

    @staticmethod
    def farthest(module: nn.Module) -> int:
        return len(module.embed_positions) - 1


class GptJ(Tabulated):
    """GPT-J; the rotation (Su et al. 2021, arXiv 2104.09864) takes the first `rotary_dim` dimensions."""

    modules = ("GPTJAttention", "GPTJFlashAttention2")
    tables = ("GPTJRotaryEmbedding",)

    @staticmethod
    def forward(module: nn.Module, hidden_states: Tensor, position_ids: Tensor, **_) -> tuple[Tensor, None]:
        q, k, v = (
            project(hidden_states).unflatten(-1, (module.num_attention_heads, module.head_dim))
            for project in (module.q_proj, module.k_proj, module.v_proj)
        )
        q, k = (Tabulated.turned(module, x, position_ids) for x in (q, k))
        out_BTHD = answered(module, q, k, v.transpose(1, 2), None, module.head_dim**-0.5)
        return module.out_proj(out_BTHD.flatten(2)), None
