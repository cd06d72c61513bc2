"""Attention while a model trains: windows and documents that do not see each other, at flash speed where there is one.

Shapes: B batch, H query heads, G key/value heads, T tokens, D head width, N documents.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from sinkctl.kernels.sink_attention import select
from sinkctl.kernels.sink_attention.reference import per_query_head, visible
from sinkctl.model.attention import configs_of, sink_of
from sinkctl.model.undocumented import attending_by

NAME = "sinkctl_training"
COLUMN = 8  # flash attention takes head widths that are multiples of this


@dataclass
class Seen:
    """What the queries of a pass may see, and what its layers report."""

    window: int | None = None  # past tokens; None: all
    documents_N: Tensor | None = None  # int32 [N + 1], on the CPU: where documents begin in all B·T tokens
    prefix: int | None = None  # tokens of a row that every query sees
    measures_first: bool = False
    first: list[Tensor] = field(default_factory=list)  # a layer each: mean attention to the first token
    attention: str = ""  # implementation: reason


_seen: ContextVar[Seen] = ContextVar("seen")


@contextmanager
def attending(model: PreTrainedModel, seen: Seen) -> Iterator[Seen]:
    """Inside, the model's layers attend by `seen`, causally. Attention dropout is left out."""
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
    token = _seen.set(seen)
    try:
        with attending_by(configs_of(model), NAME):
            yield seen
    finally:
        _seen.reset(token)


@torch.compiler.disable  # hooks leave queries in the sink, and flash operators are kernels anyway
def _attend(module, query, key, value, attention_mask=None, scaling=None, softcap=None, sliding_window=None, **_):
    seen, sink = _seen.get(), sink_of(module)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    windows = [w for w in (seen.window, None if sliding_window is None else sliding_window - 1) if w is not None]
    window = min(windows, default=None)
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotation leaves them wider under autocast
    with torch.autocast(query.device.type, enabled=False):
        if sink is None or not sink.attends:
            out_BHTD = _softmax(seen, query, key, value, None, None, scale, softcap, window)
        elif sink.normalises:
            logit = sink.extra_logit(scale, softcap)
            out_BHTD = _softmax(seen, query, key, value, logit, sink.value, scale, softcap, window)
        else:
            query, key = sink.featured(query), sink.featured(key)
            out_BHTD = _weighed(seen, sink, query, key, value, scale, softcap, window)
        out_BTHD = out_BHTD.transpose(1, 2)
        return (out_BTHD if sink is None or not sink.attends else sink.added(out_BTHD)).contiguous(), None


def _softmax(seen: Seen, q_BHTD, k_BGTD, v_BGTD, logit, sink_value_GD, scale, softcap, window) -> Tensor:
    width = v_BGTD.shape[-1]
    if seen.prefix is not None:
        assert logit is None
        assert softcap is None
        shown_BTT = visible(q_BHTD, window, seen.documents_N)
        shown_BTT[..., : seen.prefix] = True
        seen.attention = "torch: a mask that shows a prefix"
        return scaled_dot_product_attention(
            q_BHTD, *(per_query_head(x, q_BHTD) for x in (k_BGTD, v_BGTD)), shown_BTT[:, None], scale=scale
        )
    if seen.measures_first:  # one more channel of the values, 1 at first tokens: what comes out of it is their weight
        q_BHTD, k_BGTD = (pad(x, (0, COLUMN)) for x in (q_BHTD, k_BGTD))
        first_BT = first_of(seen.documents_N, v_BGTD)
        v_BGTD = torch.cat([v_BGTD, pad(first_BT[:, None, :, None].expand(*v_BGTD.shape[:3], 1), (0, COLUMN - 1))], -1)
        sink_value_GD = None if sink_value_GD is None else pad(sink_value_GD, (0, COLUMN))
    implementation, reason = select(q_BHTD, softcap, window, seen.documents_N is not None)
    seen.attention = f"{implementation.name}: {reason}"
    out_BHTD = implementation(
        q_BHTD, k_BGTD, v_BGTD, logit, sink_value_GD, scale=scale, window=window, softcap=softcap,
        documents_N=seen.documents_N,
    )  # fmt: skip
    if seen.measures_first:
        seen.first.append(_mean_weight(out_BHTD[..., width], first_BT))
    return out_BHTD[..., :width]


def _weighed(seen: Seen, sink, q_BHTD, k_BGTD, v_BGTD, scale, softcap, window) -> Tensor:
    """Weights that are no plain softmax, as a T×T map."""
    k_BHTD, v_BHTD = (per_query_head(x, q_BHTD) for x in (k_BGTD, v_BGTD))
    seen.attention = f"reference: {sink.kind} is no plain softmax"
    weigh = _compiled(_weights) if q_BHTD.is_cuda else _weights
    weight_BHTT = weigh(sink, q_BHTD, k_BHTD, visible(q_BHTD, window, seen.documents_N), scale, softcap)
    if seen.measures_first:
        first_BT = first_of(seen.documents_N, v_BGTD)
        seen.first.append(_mean_weight(weight_BHTT @ first_BT[:, None, :, None].to(weight_BHTT.dtype), first_BT))
    return weight_BHTT.to(v_BHTD.dtype) @ v_BHTD


def _weights(sink, q_BHTD, k_BHTD, visible_BTT, scale, softcap) -> Tensor:
    score_BHTT = (q_BHTD @ k_BHTD.mT).to(torch.promote_types(q_BHTD.dtype, torch.float32)) * scale
    if softcap is not None:
        score_BHTT = softcap * torch.tanh(score_BHTT / softcap)
    return sink.weigh(score_BHTT, visible_BTT[:, None])


@cache
def _compiled(function: Callable) -> Callable:
    """Fused, so that a map is written once instead of a dozen times."""
    return torch.compile(function, dynamic=False)


def first_of(documents_N: Tensor | None, like_BGTD: Tensor) -> Tensor:
    """1 at the first token of each sequence or document, else 0: [B, T], as a tensor like the given one."""
    B, _, T, _ = like_BGTD.shape
    first_BT = like_BGTD.new_zeros(B, T)
    if documents_N is None:
        first_BT[:, 0] = 1
    else:
        first_BT.view(-1)[documents_N[:-1].to(first_BT.device, torch.long)] = 1
    return first_BT


def _mean_weight(weight_BHT: Tensor, first_BT: Tensor) -> Tensor:
    """Over heads, and over the queries that are no first tokens themselves (these see nothing else)."""
    others_BT = 1 - first_BT.float()
    weight_BT = weight_BHT.float().flatten(2).mean(1)
    return (weight_BT * others_BT).sum() / others_BT.sum().clamp(min=1)
