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
        k_SGD = turn(torch.stack([k for k, _ in kept]), torch.arange(len(kept)), rotation)
        v_SGE = torch.stack([v for _, v in kept])
        q_HD = turn(call.q_BHTD[0, :, 0], torch.tensor(len(kept) - 1), rotation)
        k_HSD, v_HSE = (x.repeat_interleave(heads // groups, 1).transpose(0, 1) for x in (k_SGD, v_SGE))
        score_HS = (k_HSD @ q_HD[:, :, None])[..., 0] * call.scale
        if call.softcap is not None:
            score_HS = call.softcap * torch.tanh(score_HS / call.softcap)
        if call.slope_H is not None:  # slots count what the cache holds, so this distance is capped with them
            distance_S = len(kept) - 1 - torch.arange(len(kept))
            score_HS = score_HS - call.slope_H[:, None].to(score_HS) * distance_S
        if call.weigh is not None:
            seen_S = torch.ones(1, len(kept), dtype=torch.bool)
            out_HE = (call.weigh(score_HS[None, :, None], seen_S)[0] @ v_HSE)[:, 0]
        else:
            weight_HS = score_HS.exp()
            total_H = weight_HS.sum(-1) + (0 if call.sink_logit_H is None else call.sink_logit_H.exp())
            given_HE = (weight_HS[:, None] @ v_HSE)[:, 0]
            if call.sink_key is not None:
                own_H, v_GE = call.sink_key.logit_BHT[0, :, 0].exp(), call.sink_key.v_GE
                total_H = total_H + own_H
                if v_GE is not None:
                    given_HE = given_HE + own_H[:, None] * v_GE.repeat_interleave(heads // groups, 0)
            out_HE = given_HE / total_H[:, None]
        if keep.window is not None:
            while len(kept) > keep.sinks + keep.window:
                del kept[keep.sinks]
        return out_HE[None, :, None]


def turn(x_xND: Tensor, position_x: Tensor, rotation: Rotation | None) -> Tensor:
    """Rotary embedding as a complex product; one position for all N heads."""
    if rotation is None:
        return x_xND
    pairs, start = len(rotation.inv_freq_n), rotation.start
    dims = torch.arange(start, start + 2 * pairs)
    first, second = (dims[:pairs], dims[pairs:]) if rotation.layout == "half" else (dims[::2], dims[1::2])
    phase = torch.exp(1j * position_x[..., None, None] * rotation.inv_freq_n)
    turned = torch.complex(x_xND[..., first], x_xND[..., second]) * phase.to(
        torch.promote_types(x_xND.dtype, torch.complex64)
    )
    y = x_xND.clone()
    y[..., first], y[..., second] = turned.real, turned.imag
    return y


def stock_cache(model) -> dict:
    """What makes the stock model carry recurrent states, in its own cache; nothing for a model without them."""
    cache = DynamicCache(config=model.config)
    recurrent = any(hasattr(layer, "conv_states") for layer in cache.layers)
    return dict(use_cache=True, past_key_values=cache) if recurrent else dict(use_cache=False)


def token_by_token_nll(
    model, layers: list[LayerFacts], keeps: list[Keep], ids_T: Tensor, handler: Handler | None = None
) -> Tensor:
    """NLL of tokens 1 … T−1, through the stock model one token at a time; head and loss by the stock class."""
    losses, carried = [], stock_cache(model)
    with attached(model, handler or TokenByToken(layers, keeps)), torch.no_grad():
        for token, target in zip(ids_T[:-1], ids_T[1:], strict=True):
            one = torch.ones(1, 1, dtype=torch.long)
            logits = model(input_ids=token[None, None], position_ids=0 * one, attention_mask=one, **carried).logits
            losses.append(-logits[0, 0].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)[target])
    return torch.stack(losses)
