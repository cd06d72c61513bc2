"""`sink_attention` by FlexAttention, compiled, whose log-sum-exp is differentiable. Shapes as in `reference.py`."""

from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from sinkctl.kernels.sink_attention.reference import first_visible, per_query, sink_value_H1D

BLOCK = 128
SHAPES = 64  # of which a graph each is compiled, at most


def sink_attention(
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    v_BGTD: Tensor,
    sink_logit: Tensor | None = None,
    sink_value_GD: Tensor | None = None,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    documents_N: Tensor | None = None,
) -> Tensor:
    """As `reference.sink_attention`, on CUDA, D ≥ 16; compiles a graph a shape."""
    assert sink_logit is not None or sink_value_GD is None
    if documents_N is None:
        mask = _mask_of_rows(q_BHTD.shape[0], q_BHTD.shape[2], window, q_BHTD.device)
    else:
        mask = block_mask(first_visible(q_BHTD, window, documents_N))
    # Past the limit dynamo would run this unfused, with a T×T map and only a warning.
    with torch._dynamo.config.patch(recompile_limit=SHAPES, fail_on_recompile_limit_hit=True):
        out_BHTD, lse_BHT = _compiled()(q_BHTD, k_BGTD, v_BGTD, _capped(softcap), mask, scale)
    if sink_logit is None:
        return out_BHTD
    less_BHT1 = (lse_BHT - per_query(sink_logit.to(lse_BHT.dtype)))[..., None]
    whole_BHTD = out_BHTD * less_BHT1.sigmoid()
    if sink_value_GD is not None:
        value_H1D = sink_value_H1D(sink_value_GD, q_BHTD).to(lse_BHT.dtype)
        whole_BHTD = whole_BHTD + (-less_BHT1).sigmoid() * value_H1D
    return whole_BHTD.to(q_BHTD.dtype)


def _attend(q_BHTD, k_BGTD, v_BGTD, score_mod, mask: BlockMask, scale: float) -> tuple[Tensor, Tensor]:
    out_BHTD, aux = flex_attention(
        q_BHTD, k_BGTD, v_BGTD, score_mod, mask, scale, enable_gqa=True, return_aux=AuxRequest(lse=True)
    )
    return out_BHTD, aux.lse


@cache
def _compiled():
    return torch.compile(_attend, fullgraph=True, dynamic=False)


@cache
def _capped(softcap: float | None):
    if softcap is None:
        return None
    return lambda score, batch, head, query, key: softcap * torch.tanh(score / softcap)


@lru_cache(maxsize=16)
def _mask_of_rows(batch: int, tokens: int, window: int | None, device: torch.device) -> BlockMask:
    with torch.inference_mode(False):  # a mask first met in evaluation serves training as well
        return block_mask(first_visible(torch.empty(batch, 1, tokens, 0, device=device), window, None))


def block_mask(first_BT: Tensor) -> BlockMask:
    """The mask of queries that see keys first_BT … themselves, its blocks found without the T×T map."""
    T = first_BT.shape[1]
    begin_K = torch.arange(0, T, BLOCK, device=first_BT.device)
    end_K = begin_K + BLOCK - 1
    begin_Q1, last_Q = begin_K[:, None], end_K.clamp(max=T - 1)
    # first_BT never falls along a row, so a block's first query sees farthest back and its last query least far.
    seen_BQK = (begin_K <= begin_Q1) & (end_K >= first_BT[:, begin_K, None])
    full_BQK = (begin_K < begin_Q1) & (begin_K >= first_BT[:, last_Q, None]) & (end_K[:, None] < T)
    blocks = (x for dense in (seen_BQK & ~full_BQK, full_BQK) for x in _listed(dense))
    first_BT = first_BT.int()
    return BlockMask.from_kv_blocks(
        *blocks, BLOCK_SIZE=BLOCK, seq_lengths=(T, T),
        mask_mod=lambda batch, head, query, key: (key <= query) & (key >= first_BT[batch, query]),
    )  # fmt: skip


def _listed(dense_BQK: Tensor) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block has, and which; these first."""
    dense = dense_BQK[:, None].int()
    return dense.sum(-1, dtype=torch.int32), dense.argsort(dim=-1, descending=True, stable=True).int()
