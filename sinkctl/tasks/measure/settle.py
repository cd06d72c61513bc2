"""A recipe → the same with every name in full, and with thresholds that the run can check."""

from sinkctl.check.measure import rules
from sinkctl.model.named import absolute
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.tasks.stream.settle import model_in_full


def settle(recipe: MeasureRecipe) -> MeasureRecipe:
    """Raises UsageError for thresholds on what is not measured, or checkpoints that are not there."""
    text = recipe.input.model_copy(update={"files": tuple(map(absolute, recipe.input.files))})
    model = model_in_full(recipe.model)
    names = tuple(map(absolute, recipe.checkpoints))
    local = min(64, max(1, recipe.input.length // 4)) if recipe.local == "auto" else recipe.local
    recipe = recipe.model_copy(update={"input": text, "model": model, "checkpoints": names, "local": local})
    rules(recipe)
    return recipe
