"""StreamingLLM token by token, in plain torch: the rule as published, with none of the product's arithmetic.

One token a forward. Each layer caches un-rotated keys; every key is rotated at its slot in the cache and the query at
the slot after the last; then the cache is cut to the first S and the last W tokens (Xiao et al. 2023, §3.2).
"""

import torch
from torch import Tensor
from transformers import DynamicCache

from sinkctl.cache.policies import Keep
from sinkctl.model.attention import attached
from sinkctl.model.handler import Handler
from sinkctl.model.positions import Rotation
from sinkctl.model.probe import LayerFacts


class TokenByToken(Handler):
    """Answers one query at a time from a growing and shrinking list of keys and values."""

    def __init__(self, layers: list[LayerFacts], keeps: list[Keep]):
        self.rules = {id(facts.module): (facts.rotation, keep) for facts, keep in zip(layers, keeps, strict=True)}
        self.kept: dict[int, list[tuple[Tensor, Tensor]]] = {id(facts.module): [] for facts in layers}

    def attend(self, call):
        rotation, keep = self.rules[id(call.module)]
        kept = self.kept[id(call.module)]
        kept.append((call.k_BGTD[0, :, -1], call.v_BGTE[0, :, -1]))
        heads, groups = call.q_BHTD.shape[1], call.k_BGTD.shape[1]
        k_SGD = torch.stack([turn(k, slot, rotation) for slot, (k, _) in enumerate(kept)])
        v_SGE = torch.stack([v for _, v in kept])
        q_HD = turn(call.q_BHTD[0, :, 0], len(kept) - 1, rotation)
        out = []
        for head in range(heads):
            group = head // (heads // groups)
            score_S = k_SGD[:, group] @ q_HD[head] * call.scale
            if call.softcap is not None:
                score_S = call.softcap * torch.tanh(score_S / call.softcap)
            if call.slope_H is not None:  # slots count what the cache holds, so this distance is capped with them
                score_S = score_S - call.slope_H[head].to(score_S) * (len(kept) - 1 - torch.arange(len(kept)))
            if call.weigh is not None:
                seen_S = torch.ones(1, len(kept), dtype=torch.bool)
                alike = score_S.expand(1, heads, 1, -1)  # each head is weighed by its own parameters
                out.append(call.weigh(alike, seen_S)[0, head, 0] @ v_SGE[:, group])
                continue
            weight_S = score_S.exp()
            total = weight_S.sum() + (0 if call.sink_logit_H is None else call.sink_logit_H[head].exp())
            given_E = weight_S @ v_SGE[:, group]
            if call.sink_key is not None:
                own, v_GE = call.sink_key.logit_BHT[0, head, 0].exp(), call.sink_key.v_GE
                total, given_E = total + own, given_E + (0 if v_GE is None else own * v_GE[group])
            out.append(given_E / total)
        if keep.window is not None:
            while len(kept) > keep.sinks + keep.window:
                del kept[keep.sinks]
        return torch.stack(out)[None, :, None]


def turn(x: Tensor, position: int, rotation: Rotation | None) -> Tensor:
    """Rotary embedding as a complex product."""
    if rotation is None:
        return x
    pairs, start = len(rotation.inv_freq_n), rotation.start
    dims = torch.arange(start, start + 2 * pairs)
    first, second = (dims[:pairs], dims[pairs:]) if rotation.layout == "half" else (dims[::2], dims[1::2])
    turned = torch.complex(x[..., first], x[..., second]) * torch.exp(1j * position * rotation.inv_freq_n).to(
        torch.promote_types(x.dtype, torch.complex64)
    )
    y = x.clone()
    y[..., first], y[..., second] = turned.real, turned.imag
    return y


def stock_cache(model) -> dict:
    """What makes the stock model carry recurrent states, in its own cache; nothing for a model without them."""
    cache = DynamicCache(config=model.config)
    recurrent = any(hasattr(layer, "conv_states") for layer in cache.layers)
    return dict(use_cache=True, past_key_values=cache) if recurrent else dict(use_cache=False)


def token_by_token_nll(model, layers: list[LayerFacts], keeps: list[Keep], ids_T: Tensor) -> Tensor:
    """NLL of tokens 1 … T−1, through the stock model one token at a time; head and loss by the stock class."""
    losses, carried = [], stock_cache(model)
    with attached(model, TokenByToken(layers, keeps)), torch.no_grad():
        for token, target in zip(ids_T[:-1], ids_T[1:], strict=True):
            one = torch.ones(1, 1, dtype=torch.long)
            logits = model(input_ids=token[None, None], position_ids=0 * one, attention_mask=one, **carried).logits
            losses.append(-logits[0, 0].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)[target])
    return torch.stack(losses)
