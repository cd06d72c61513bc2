"""Tokens that the residual stream tells will be sinks: what tells them in a model, and where a stream is looked at.

B rows, N samples, T tokens, C channels.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.cache.policies import Policy
from sinkctl.cache.precision.settings import Massive, Precision
from sinkctl.errors import ModelError, UsageError
from sinkctl.kernels.activations import is_massive, massive
from sinkctl.metrics.predicted import Rule, rule
from sinkctl.model.attention import hidden_states
from sinkctl.model.load import DEMO, LoadedModel
from sinkctl.model.probe import LayerFacts

SAMPLES, LENGTH = 4, 256
SIZE, RATIO = 100.0, 1000.0  # |h| above this, and so many times the median (Sun et al. 2024, arXiv 2402.17762)
Watched = tuple[nn.Module, Callable]


def watched(
    model: PreTrainedModel, layers: Sequence[LayerFacts], precision: Precision, tell: Callable[[Tensor], None]
) -> list[Watched]:
    """The layer whose output tells predicted tokens, and the hook that tells them, bool [B, T]; nothing where none is.

    What a block's tokens tell is known before the layers that keep them attend: nothing goes through the model twice.
    """
    if not precision.predicts:
        return []
    asked = precision.massive
    channels = list(asked.channels)

    @torch.compiler.disable
    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        tell((_residual(output)[..., channels].abs() > asked.above).any(-1).cpu())

    return [(_block(model, layers, asked.layer), look)]


def settled(policies: Sequence[Policy], loaded: LoadedModel) -> list[Policy]:
    """The policies, with what tells their predicted tokens in this model.

    Raises ModelError where nothing does, UsageError for a layer or channel that is none of the model's.
    """
    found, known = [], None
    for policy in policies:
        precision = policy.precision
        if precision is not None and precision.predicts:
            massive = precision.massive or known or find(loaded, precision.keep)
            known = massive if precision.massive is None else known
            _check(massive, loaded)
            precision = precision.model_copy(update={"massive": massive})
            policy = policy.model_copy(update={"precision": precision})
        found.append(policy)
    return found


def find(loaded: LoadedModel, keep: str = "predicted") -> Massive:
    """By `SAMPLES` samples of `LENGTH` tokens of the built-in text (or as many as the model's context takes); of random
    tokens where there is no tokenizer.

    The layer and channels are those of `metrics/predicted.py`. Raises ModelError where nothing is massive.
    """
    found, seen = told_by(loaded, _samples(loaded))
    if found is None:
        raise ModelError(
            f"--kv-keep {keep}: no activation of {loaded.name} is massive, so nothing tells which tokens will be "
            "sinks; give none, or first:1"
        )
    return Massive(layer=found.layer, channels=tuple(found.channels), above=seen[found.layer].least)


class Seen(NamedTuple):
    """Of one layer's output."""

    places_E3: Tensor  # sample, token and channel of massive elements
    least: float  # the size from which they are massive
    largest_NT: Tensor  # |h| over the channels


@torch.no_grad()
def told_by(loaded: LoadedModel, ids_NT: Tensor) -> tuple[Rule | None, dict[int, Seen]]:
    """The rule that these samples give, None where nothing is massive; and every layer but the last, by its number."""
    layers, seen = loaded.layers(ids_NT.shape[1] - 1), {}
    last = max(facts.number for facts in layers)

    def look(number: int, output: Any) -> None:
        h_NTC = _residual(output)
        real_NT = torch.ones(h_NTC.shape[:2], dtype=torch.bool, device=h_NTC.device)
        median_N = massive(h_NTC, real_NT, SIZE, RATIO)[:, 3]
        size_NTC = h_NTC.abs().to(median_N)
        places = (is_massive(size_NTC, median_N[:, None, None], SIZE, RATIO) & size_NTC.isfinite()).nonzero()
        seen[number] = Seen(places, max(SIZE, RATIO * float(median_N.mean())), size_NTC.amax(-1))

    with ExitStack() as hooks:
        for number in range(last):
            block = _block(loaded.model, layers, number)
            handle = block.register_forward_hook(lambda _, __, output, number=number: look(number, output))
            hooks.callback(handle.remove)
        hidden_states(loaded.model, ids_NT, torch.arange(ids_NT.shape[1], device=ids_NT.device).expand_as(ids_NT))
    return rule({number: each.places_E3 for number, each in seen.items()}, len(ids_NT), last), seen


def _residual(output: Any) -> Tensor:
    """[B, T, C]."""
    h = output[0] if isinstance(output, tuple) else output
    if h.dim() != 3:
        raise ModelError("--kv-keep predicted: its layers give no one residual stream; give none, or first:1")
    return h


def _block(model: PreTrainedModel, layers: Sequence[LayerFacts], number: int) -> nn.Module:
    """One of the model's layers, which may be none of those with softmax attention."""
    parts = layers[0].name.split(".")
    place = next(index for index, part in enumerate(parts) if part.isdigit())
    return model.get_submodule(".".join([*parts[:place], str(number)]))


def _check(asked: Massive, loaded: LoadedModel) -> None:
    last = max(facts.number for facts in loaded.layers(_length(loaded) - 1))
    if asked.layer >= last:
        raise UsageError(
            f"precision.massive.layer: {asked.layer}: no layer behind it would keep what it tells; give at most "
            f"{last - 1}"
        )
    channels = loaded.model.config.get_text_config().hidden_size
    if max(asked.channels) >= channels:
        raise UsageError(
            f"precision.massive.channels: {max(asked.channels)}: {loaded.name} has {channels}; give at most "
            f"{channels - 1}"
        )


def _length(loaded: LoadedModel) -> int:
    """Tokens of a sample."""
    return LENGTH if loaded.context is None else min(LENGTH, loaded.context)


def _samples(loaded: LoadedModel) -> Tensor:
    """Ids, [N, T], a BOS in front of each where the model has one there."""
    length = _length(loaded)
    if loaded.tokenizer is None:
        drawn = torch.Generator().manual_seed(0)
        ids_NT = torch.randint(loaded.model.config.get_text_config().vocab_size, (SAMPLES, length), generator=drawn)
        bos = loaded.bos_id
    else:
        text = (DEMO / "text.txt").read_text(encoding="utf-8")[: 16 * SAMPLES * LENGTH]
        ids = loaded.tokenizer(text, add_special_tokens=False, verbose=False).input_ids[: SAMPLES * length]
        ids_NT, bos = torch.tensor(ids).view(SAMPLES, length), loaded.bos_id if loaded.uses_bos else None
    if bos is not None:
        ids_NT[:, 0] = bos
    return ids_NT.to(loaded.device)
