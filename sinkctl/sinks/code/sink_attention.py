"""A designed attention sink for any decoder that attends through transformers' attention interface.

Needs torch and transformers alone: sinkctl copies this file into the checkpoints it writes. Which mechanism a
checkpoint has, and which parameters, stands in its config.json under `sink`; each attention module has them in
`<attention>.sink`.

Shapes: B batch, H query heads, G key/value heads, T queries, S keys, D key width, E value width, C hidden width.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from .sink_weights import WEIGHTS, fallen, kernel, over_their_sum, positive_kernel, scaled_softmax

NAME = "sink_attention"

# Kinds whose weights are no plain softmax of the scores.
WEIGHED = ("sigmoid", "elu", "softpick", "clipped_softmax", "score_bias", "normaliser", "sigsoftmax", "kernel", "alibi")
FIXED = (("softmax1", "logit"), ("fixed_kv_bias", "value"))  # parameters that do not learn


class AttentionSink(nn.Module):
    """What one attention layer has besides its queries, keys and values; parameters by name:

    logit [H]: one more outcome of the softmax, of value 0 (gpt-oss; fixed at 0: softmax off by one).
    key [G, D], value [G, E]: a key that every query sees, facing the query before its rotation; its value, or 0.
    lost_key [G, D], lost_value [G, E]: taken from every key, before its rotation, and every value; they do not learn.
    offset [H]: added to the scores of sigmoid, elu and softpick. gamma [H]: the lower stretch of clipped softmax.
    first [H]: added to the score of the first token. bias [H, E]: added to what each head gives.
    gate (a linear layer of the hidden state): sigmoid, times the attention's output, its values or its input.
    feature (two linear layers of a head): what a kernel compares queries and keys by. position [T, C]: added to what
    the layer gets.
    """

    def __init__(self, sink: dict, heads: int, groups: int, width: int, hidden: int):
        super().__init__()
        self.kind, self.mix = sink["kind"], sink.get("mix", 1.0)  # 0: softmax still, 1: the mechanism alone
        self.normalise = sink.get("normalise", False)  # weights over their sum
        self.form, self.alpha, self.power = sink.get("form"), sink.get("alpha", 1.0), sink.get("power", 1.0)
        self.heads, self.width = heads, width
        self.raw_BTHD: Tensor | None = None  # queries before their rotation, from the layer's own projection
        channels = min(sink.get("channels") or width, width)
        shapes = dict(
            logit=(heads,), key=(groups, channels), value=(groups, width), offset=(heads,),
            gamma=(heads,), first=(heads,), bias=(heads, width), lost_key=(groups, width), lost_value=(groups, width),
            position=(sink.get("length", 0), hidden),
        )  # fmt: skip
        for name, shape in shapes.items():
            fixed = (self.kind, name) in FIXED or (self.form, name) == ("sinusoidal", "position")
            learns = not fixed and not name.startswith("lost_")
            held = nn.Parameter(torch.zeros(shape), learns) if name in sink["parameters"] else None
            self.register_parameter(name, held)
        self.gate = None
        if self.kind == "gate":
            blocks, size = {"output": (heads, width), "value": (groups, width), "input": (1, hidden)}[sink["place"]]
            rows = blocks if sink["form"] == "headwise" else blocks * size
            self.gate = nn.Linear(hidden, rows, bias="gate.bias" in sink["parameters"])
        self.feature = None
        if "feature.0.weight" in sink["parameters"]:
            first, last = (nn.Linear(width, width, bias=False) for _ in range(2))
            self.feature = nn.Sequential(first, nn.GELU(), last)

    @property
    def attends(self) -> bool:
        """Whether the layer's attention itself is another one; gates leave it as it is."""
        return self.gate is None

    @property
    def normalises(self) -> bool:
        """Whether weights still come from one softmax over the scores."""
        return self.kind not in WEIGHED

    @property
    def whole_key(self) -> Tensor:
        """The learned key, [G, D], with the channels that do not learn."""
        return pad(self.key, (0, self.width - self.key.shape[-1]))

    def featured(self, x_BHTD: Tensor) -> Tensor:
        """φ of rotated queries or keys, where a kernel compares them by more than their product."""
        if self.kind == "kernel" and self.form == "elu":
            return nn.functional.elu(x_BHTD) + 1
        return x_BHTD if self.feature is None else self.feature(x_BHTD.to(self.feature[0].weight.dtype)).to(x_BHTD)

    def forward(self, query, key, value, mask, scale, dropout, softcap) -> tuple[Tensor, Tensor | None]:
        """What `sink_attention` returns; a forward of its own, as that is when offloaded parameters are there."""
        query, key = self.featured(query), self.featured(key)
        seen = _seen(mask, query.shape[2], key.shape[2], query.device)
        extra = self.extra_logit(scale, softcap) if self.normalises else None
        if self.normalises and softcap is None and (mask is None or mask.dtype == torch.bool):
            out_BHTE, weights = _fused(self, query, key, value, seen, scale, dropout, extra), None
        else:
            out_BHTE, weights = _plain(self, query, key, value, seen, scale, dropout, extra, softcap)
        return self.added(out_BHTE.transpose(1, 2).contiguous()), weights

    def extra_logit(self, scale: float, softcap: float | None = None) -> Tensor | None:
        """The score of the softmax's one more outcome: [H], [B, H, T] where it depends on the query, or None."""
        if self.key is None:
            return self.logit
        raw_BTHD, self.raw_BTHD = self.raw_BTHD, None
        precise = torch.promote_types(raw_BTHD.dtype, torch.float32)
        raw_BTGRD = raw_BTHD.unflatten(2, (self.key.shape[0], -1)).to(precise)
        score_BHT = torch.einsum("btgrd,gd->bgrt", raw_BTGRD, self.whole_key.to(precise)).flatten(1, 2) * scale
        return score_BHT if softcap is None else softcap * torch.tanh(score_BHT / softcap)

    def weigh(self, score_BHTS: Tensor, seen: Tensor) -> Tensor:
        """Attention weights from scores, for what is no plain softmax; `seen` is False where a key is hidden."""
        if self.first is not None:
            first_S = nn.functional.one_hot(seen.int().argmax(-1), seen.shape[-1]).to(score_BHTS.dtype)
            score_BHTS = score_BHTS + self.first.to(score_BHTS.dtype)[:, None, None] * first_S
        if self.kind == "alibi":
            score_BHTS = fallen(score_BHTS, seen)
        low = torch.finfo(score_BHTS.dtype).min
        of_softmax = self.kind in ("score_bias", "alibi", "clipped_softmax") or self.mix != 1
        softmax_BHTS = score_BHTS.masked_fill(~seen, low).softmax(-1) if of_softmax else None
        if self.kind in ("score_bias", "alibi"):
            return softmax_BHTS
        if self.kind == "clipped_softmax":  # Bondarenko et al. 2023, arXiv 2306.12929, with ζ = 1
            gamma_H11 = self.gamma.to(score_BHTS.dtype)[:, None, None]
            weight_BHTS = ((1 - gamma_H11) * softmax_BHTS + gamma_H11).clamp(0, 1)
        elif self.kind == "normaliser":
            weight_BHTS = scaled_softmax(score_BHTS, seen, self.alpha, self.power)
        elif self.kind == "kernel":
            weight_BHTS = (positive_kernel if self.form == "elu" else kernel)(score_BHTS, seen, self.normalise)
        else:
            shifted_BHTS = score_BHTS
            if self.offset is not None:
                shifted_BHTS = score_BHTS + self.offset.to(score_BHTS.dtype)[:, None, None]
            if self.normalise or self.kind == "sigsoftmax":
                weight_BHTS = over_their_sum(self.kind, shifted_BHTS, seen)
            else:
                weight_BHTS = WEIGHTS[self.kind](shifted_BHTS, seen)
        mixed_BHTS = weight_BHTS if self.mix == 1 else torch.lerp(softmax_BHTS, weight_BHTS, self.mix)
        return mixed_BHTS.masked_fill(~seen, 0.0)

    def added(self, out_BTHE: Tensor) -> Tensor:
        """A layer's output with its constant part; heads apart or, behind a gate, side by side."""
        if self.bias is None:
            return out_BTHE
        bias = self.bias.to(out_BTHE.dtype)
        return out_BTHE + (bias if out_BTHE.dim() == 4 else bias.flatten())


def sink_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, softcap=None, **kwargs
) -> tuple[Tensor, Tensor | None]:
    """The attention function of layers that have a sink: (out_BTHE, weights_BHTS), as transformers calls it.

    Weights exclude what the sink takes. Made for the masks of `eager` and of `sdpa`; with the latter, and no softcap,
    torch's fused attention runs and there are no weights.
    """
    if kwargs.get("cache") is not None:
        raise ValueError("attention with a designed sink has no paged form; generate without continuous batching")
    if query.shape[1] != module.sink.heads:
        raise ValueError(
            f"{query.shape[1]} of {module.sink.heads} heads: designed sinks cannot be sharded over devices"
        )
    dropout = dropout if module.training else 0.0
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return module.sink(query, key, value, attention_mask, scale, dropout, softcap)


def _plain(sink, q_BHTD, k_BGSD, v_BGSE, seen, scale, dropout, extra, softcap) -> tuple[Tensor, Tensor]:
    groups = q_BHTD.shape[1] // k_BGSD.shape[1]
    k_BHSD, v_BHSE = (x.repeat_interleave(groups, dim=1) for x in (k_BGSD, v_BGSE))
    precise = torch.promote_types(q_BHTD.dtype, torch.float32)
    score_BHTS = (q_BHTD @ k_BHSD.mT).to(precise) * scale
    if softcap is not None:
        score_BHTS = softcap * torch.tanh(score_BHTS / softcap)
    if not sink.normalises:
        weight_BHTS, taken_BHT1 = sink.weigh(score_BHTS, seen), None
    else:
        score_BHTS = score_BHTS.masked_fill(~seen, torch.finfo(precise).min)
        if extra is not None:
            column = extra.to(precise)[..., None] if extra.dim() == 3 else extra.to(precise)[None, :, None, None]
            score_BHTS = torch.cat([column.expand(*score_BHTS.shape[:3], 1), score_BHTS], dim=-1)
        weight_BHTS, taken_BHT1 = score_BHTS.softmax(-1), None
        if extra is not None:
            taken_BHT1, weight_BHTS = weight_BHTS[..., :1], weight_BHTS[..., 1:]
    weight_BHTS = nn.functional.dropout(weight_BHTS, dropout).to(v_BHSE.dtype)
    out_BHTE = weight_BHTS @ v_BHSE
    if sink.value is not None:
        v_H1E = sink.value.repeat_interleave(groups, dim=0)[:, None].to(precise)
        out_BHTE = out_BHTE + (taken_BHT1 * v_H1E).to(out_BHTE.dtype)
    return out_BHTE, weight_BHTS


def _fused(sink, q_BHTD, k_BGSD, v_BGSE, seen, scale, dropout, extra) -> Tensor:
    """By torch's fused attention: the sink is a key in dimensions of its own, which the query's score multiplies."""
    (B, H, T, D), G, E = q_BHTD.shape, k_BGSD.shape[1], v_BGSE.shape[-1]
    if extra is not None:
        score_BHT = (extra if extra.dim() == 3 else extra[None, :, None]).expand(B, H, T) / scale
        most = torch.finfo(q_BHTD.dtype).max / 2
        score_BHT = score_BHT.clamp(-most, most)
        high_BHT = score_BHT.to(q_BHTD.dtype)  # two dimensions keep the score precise in bfloat16
        parts = [high_BHT, (score_BHT - high_BHT).to(q_BHTD.dtype)]
        q_BHTD = torch.cat([q_BHTD, torch.stack(parts, -1), q_BHTD.new_zeros(B, H, T, 6)], dim=-1)
        k_BGSD, v_BGSE = (pad(x, (0, 8, 1, 0)) for x in (k_BGSD, v_BGSE))
        k_BGSD[:, :, 0, D : D + 2] = 1
        if sink.value is not None:
            v_BGSE[:, :, 0, :E] = sink.value.to(v_BGSE.dtype)
        seen = pad(seen, (1, 0), value=True)
    k_BHSD, v_BHSE = (x.repeat_interleave(H // G, dim=1) for x in (k_BGSD, v_BGSE))
    return scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSE, seen, dropout, scale=scale)[..., :E]


def _seen(mask: Tensor | None, queries: int, keys: int, device: torch.device) -> Tensor:
    """Where queries see keys, from whatever mask transformers made; none means causal."""
    if mask is None:
        before = keys if queries == 1 else 1
        return torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device).tril(before - 1)
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


AttentionInterface.register(NAME, sink_attention)
