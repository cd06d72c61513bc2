"""How much a measurement does, and the sizes of one that `--budget` says the time of."""

from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.numbers import count, duration
from sinkctl.tasks.measure.streamed import SINKS, tokens_of, window_of

# What a token costs beside one of a plain forward pass without head, roughly: of an input's sample, measured in full;
# of an ablation's, with the losses of its second half; streamed, with head and long past. And how many tokens the lines
# of the ablations run, all together, a token of their samples.
INPUT, LOST, STREAMED = 2.0, 1.3, 2.0
LINES = 6.8
LEAST_INPUTS, LEAST_SAMPLES, MOST_GROWTH = 4, 2, 4.0
NEAR = 0.9  # of a budget, as an estimate this rough may err


def work(recipe: MeasureRecipe, loaded: LoadedModel, shown: int) -> tuple[float, float]:
    """(of `shown` inputs, of their costs): tokens."""
    inputs = INPUT * shown * recipe.input.samples * recipe.input.length
    if loaded.kind != "decoder" or not recipe.cost.run:
        return inputs, 0.0
    length = 256 if recipe.cost.length == "auto" else recipe.cost.length
    length = length if loaded.context is None else min(length, loaded.context)
    full, tokens = SINKS + window_of(recipe, loaded.context), tokens_of(recipe, loaded.context)
    streamed = 2 * tokens - full if tokens > full + 1 else 0
    return inputs, LOST * LINES * recipe.cost.samples * length + STREAMED * streamed


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
