"""What no hardware can leave out of a forward pass: matrix products, and bytes that are read once."""

from collections.abc import Callable, Iterator

from torch import nn
from transformers import PreTrainedModel

from sinkctl.model.compiled import EXPERTS
from sinkctl.model.load import LoadedModel
from sinkctl.model.parts import text_modules

Keys = Callable[[int | None], float]  # own window of a layer (None: all) → keys a token sees there, itself counted


def token_flops(loaded: LoadedModel, keys: Keys, reach: int, head: bool = True) -> float:
    """Floating-point operations of matrix products for a token.

    `reach` is what the position probe is asked for. Of a mixture of experts only those a token goes to; `head`: the
    output embedding too.
    """
    model = loaded.model
    parameters = sum(_multiplied(model))
    if head:
        parameters += model.get_output_embeddings().weight.numel()
    attention = sum(
        2 * facts.heads * (facts.width + facts.value_width) * keys(facts.window) for facts in loaded.layers(reach)
    )
    return 2 * parameters + attention


def weight_bytes(model: PreTrainedModel) -> float:
    """Bytes of weights that a step of one token reads: each matrix once, the input embedding aside."""
    size = model.dtype.itemsize
    return size * (sum(_multiplied(model)) + model.get_output_embeddings().weight.numel())


def _multiplied(model: PreTrainedModel) -> Iterator[float]:
    """Weights that a token is multiplied with in the layers."""
    config = model.config.get_text_config()
    experts = next((n for n in (getattr(config, name, None) for name in EXPERTS) if n), None)
    share = 1.0 if experts is None else config.num_experts_per_tok / experts
    for name, module in text_modules(model).items():
        if isinstance(module, nn.Embedding):  # a row of it is looked up
            continue
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.dim() >= 2:
                yield parameter.numel() * (share if ".experts." in f"{name}.{own}" else 1.0)


def in_stream(reach: int) -> Keys:
    """Keys a token of a stream sees once the cache of S+W = `reach` tokens is full."""
    return lambda window: (reach if window is None else min(reach, window)) + 1


def in_sample(tokens: int, window: int | None = None) -> Keys:
    """Keys a token of a sample of `tokens` sees on average, where layers see at most `window` past keys."""
    return lambda own: visible(tokens, min((w for w in (own, window) if w is not None), default=None))


def visible(tokens: int, window: int | None) -> float:
    """Keys a query of a sample of `tokens` sees on average, itself counted; `window` past keys, none: all."""
    ahead = tokens - 1 if window is None else min(window, tokens - 1)
    return ((ahead + 1) * (ahead + 2) / 2 + (tokens - 1 - ahead) * (ahead + 1)) / tokens
