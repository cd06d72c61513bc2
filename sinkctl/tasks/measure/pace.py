"""How long a measurement takes: its work, counted in tokens of a plain forward pass, and how fast a model takes those.

`--budget` chooses sizes by it; progress tells the time left by it, and later by what was done.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from sinkctl.metrics.observe import run
from sinkctl.metrics.samples import laid_out
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.numbers import count, duration
from sinkctl.tasks.measure.inputs import InputSet
from sinkctl.tasks.measure.streamed import SINKS, tokens_of, window_of

PROBE = 128  # tokens
# What a token costs beside one of a plain forward pass without head, roughly: measured in full; of an ablation's
# sample, over all of its lines; streamed, head and long past included.
INPUT, ABLATED, STREAMED = 2.5, 9.0, 2.0
LEAST_INPUTS, LEAST_SAMPLES, MOST_GROWTH = 4, 2, 4.0
NEAR = 0.9  # of a budget, as an estimate this rough may err


@dataclass
class Pace:
    """Work done and ahead of one checkpoint."""

    ahead: float  # tokens
    seconds_a_token: float | None  # of the probe
    done: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def do(self, tokens: float) -> None:
        self.done += tokens

    @property
    def share(self) -> float:
        return min(1.0, self.done / max(self.ahead, self.done, 1.0))

    @property
    def seconds_left(self) -> float | None:
        """By the probe before anything is done, then by how it went."""
        left = max(0.0, self.ahead - self.done)
        if self.done < 0.02 * self.ahead:
            return None if self.seconds_a_token is None else left * self.seconds_a_token
        return left * (time.monotonic() - self.began) / self.done


def work(recipe: MeasureRecipe, loaded: LoadedModel, shown: int) -> tuple[float, float]:
    """(of `shown` inputs, of their costs): tokens."""
    inputs = INPUT * shown * recipe.input.samples * recipe.input.length
    if loaded.kind != "decoder" or not recipe.cost.run:
        return inputs, 0.0
    length = 256 if recipe.cost.length == "auto" else recipe.cost.length
    length = length if loaded.context is None else min(length, loaded.context)
    full, tokens = SINKS + window_of(recipe, loaded.context), tokens_of(recipe, loaded.context)
    streamed = 2 * tokens - full if tokens > full + 1 else 0
    return inputs, ABLATED * recipe.cost.samples * length + STREAMED * streamed


def probed(loaded: LoadedModel, shown: Sequence[InputSet]) -> float | None:
    """Seconds a token of a plain forward pass; None for images, and where it fails."""
    ids = [sample for sample in shown[0].samples if sample.dim() == 1]
    if not ids:
        return None
    length = min(PROBE, *map(len, ids))
    rows = [sample[:length] for sample in ids[: max(1, PROBE // length)]]
    samples = laid_out(rows, loaded.device)
    seconds = []
    for _ in range(2):  # the first one warms up
        began = time.monotonic()
        try:
            run(loaded.model, samples)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # measuring it says what is wrong
            return None
        if loaded.device.type == "cuda":
            torch.cuda.synchronize(loaded.device)
        seconds.append(time.monotonic() - began)
    return min(seconds) / (len(rows) * length)


def within(recipe: MeasureRecipe, loaded: LoadedModel, shown: int, seconds: float, pace: float) -> MeasureRecipe:
    """The recipe with sizes that take about so many seconds: never more input samples than asked for."""
    low, high = 0.0, MOST_GROWTH
    for _ in range(30):
        scale = (low + high) / 2
        fits = sum(work(_scaled(recipe, loaded, scale), loaded, shown)) * pace <= NEAR * seconds
        low, high = (scale, high) if fits else (low, scale)
    return _scaled(recipe, loaded, low)


def _scaled(recipe: MeasureRecipe, loaded: LoadedModel, scale: float) -> MeasureRecipe:
    inputs, cost = recipe.input, recipe.cost
    own = dict(
        samples=max(LEAST_SAMPLES, round(scale * cost.samples)),
        tokens=max(1, round(scale * tokens_of(recipe, loaded.context))),
    )
    samples = min(inputs.samples, max(LEAST_INPUTS, round(scale * inputs.samples)))
    return recipe.model_copy(
        update={"input": inputs.model_copy(update={"samples": samples}), "cost": cost.model_copy(update=own)}
    )


def said(recipe: MeasureRecipe, pace: float) -> str:
    """Sizes chosen, and why."""
    sizes = f"{count(recipe.input.samples)} samples an input"
    if recipe.cost.run:
        sizes += f", {count(recipe.cost.samples)} of the costs, {count(recipe.cost.tokens)} tokens streamed"
    return f"{recipe.budget}: {sizes}; a probe took {duration(1000 * pace)} for 1,000 tokens"


def seconds_of(budget: str) -> float:
    """60s, 5m, 1.5h."""
    return float(budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[budget[-1]]
