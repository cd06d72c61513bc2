"""A recipe → the same with every name in full, and with thresholds that the run can check."""

from sinkctl.errors import UsageError
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.compare import check_names, parse
from sinkctl.recipe.checkpoints import checkpoints
from sinkctl.tasks.stream.settle import absolute

# What `--fail-on` may name, for a checkpoint; of several, NAME@LABEL names one and NAME holds for each.
METRICS = (
    "sink_rate", "alpha_max", "tail_mass", "entropy", "learned_mass", "massive_max", "massive_ratio", "value_drain",
    "kurtosis_max", "max_abs", "effective_rank_min", "dormant_heads", "outlier_patches", "balance_error",
    "cost.first_key", "cost.no_sinks", "cost.massive_zeroed", "cost.largest_zeroed", "cost.no_bos",
)  # fmt: skip
INPUTS = ("natural", "natural_no_bos", "random", "random_no_bos", "repeat", "repeat_no_bos", "images")


def settle(recipe: MeasureRecipe) -> MeasureRecipe:
    """Raises UsageError for thresholds on what is not measured, or checkpoints that are not there."""
    text = recipe.input.model_copy(update={"files": tuple(map(absolute, recipe.input.files))})
    model = recipe.model.model_copy(update={"name": absolute(recipe.model.name)})
    names = tuple(map(absolute, recipe.checkpoints))
    local = min(64, max(1, recipe.input.length // 4)) if recipe.local == "auto" else recipe.local
    recipe = recipe.model_copy(update={"input": text, "model": model, "checkpoints": names, "local": local})
    labels = [label for label, _, _ in checkpoints(recipe)]
    if "-" in recipe.input.files and len(labels) > 1:
        raise UsageError("-: standard input can be read only once, and there are several checkpoints; name a file")
    known = [*METRICS, *(f"{name}.sink_rate" for name in INPUTS)]
    thresholds = [parse(text) for text in recipe.fail_on]
    costly = [t.metric for t in thresholds if t.metric.startswith("cost.")]
    if costly and not recipe.cost.run:
        raise UsageError(f"--fail-on {costly[0]}: costs are not measured in this run; leave --no-cost out")
    check_names(thresholds, ["measure.seconds", *known, *(f"{name}@{label}" for label in labels for name in known)])
    return recipe
