"""Falcon (Almazrouei et al. 2023, arXiv 2311.16867): rotary or ALiBi; one, some or all heads for keys and values."""

from torch import Tensor, nn

from sinkctl.model.families.base import Family, alibi_slopes
from sinkctl.model.handler import answered
from sinkctl.model.undocumented import stock


class Falcon(Family):
    """Falcon-7B and -40B (rotary), Falcon-RW (ALiBi, divided by √D as the scores are)."""

    modules = ("FalconAttention", "FalconFlashAttention2")

    @staticmethod
    def forward(
        module: nn.Module,
        hidden_states: Tensor,
        alibi: Tensor | None,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **_,
    ) -> tuple[Tensor, None]:
        q, k, v = (x.transpose(1, 2) for x in module._split_heads(module.query_key_value(hidden_states)))
        # The stock class repeats grouped keys and values for every query head: one of each is enough.
        k, v = (x[:, :: x.shape[1] // module.num_kv_heads] for x in (k, v))
        slope_H = None
        if alibi is None:
            q, k = stock(module).apply_rotary_pos_emb(q, k, *position_embeddings)
        else:
            # Rounded to bfloat16, as the stock class has it. That one also rounds slope·position to bfloat16, by up to
            # 0.2 %, so that its steps depend on where a text began; this one falls by the slope at every token.
            slope_H = alibi_slopes(stock(module).build_alibi_tensor, module.num_heads, hidden_states.device)
            slope_H = slope_H * module.inv_norm_factor
        out_BTHD = answered(module, q, k, v, None, module.inv_norm_factor, slope_H=slope_H)
        return module.dense(out_BTHD.flatten(2)), None
