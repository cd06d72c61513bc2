"""Before a vision transformer is given registers."""

from pathlib import Path

from sinkctl.errors import TextError, UsageError
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.result.compare import check_names, parse

METRICS = ("outlier_patches", "patch_max", "smoothness", "cosine", "kl")
NAMES = (*METRICS, *(f"original.{name}" for name in METRICS[:3]), "convert.seconds")


def check_images(images: tuple[str, ...]) -> None:
    """TextError for what is not there."""
    missing = next((name for name in images if not Path(name).exists()), None)
    if missing is not None:
        raise TextError(f"{missing}: no such file or folder; check the path")


def register_rules(recipe: ConvertRecipe) -> None:
    """UsageError for what does not go together."""
    kind = recipe.sink.kind
    check_names([parse(text) for text in recipe.fail_on], list(NAMES))
    if recipe.fail_on and not recipe.evaluation.run:
        raise UsageError(f"--fail-on {recipe.fail_on[0]}: nothing is measured; leave --no-eval out")
    if not recipe.images:
        raise UsageError(f"--to {kind}: name the images that outliers are looked for in, --images FILE|DIR")
    if recipe.text.files:
        raise UsageError(f"--text {recipe.text.files[0]}: {kind} is for vision transformers; --images takes images")
    if kind == "registers":
        _learned_rules(recipe)
    elif recipe.steps:
        raise UsageError(f"--steps {recipe.steps}: {kind} takes no training; leave it out")
    if recipe.scratch is not None:
        raise UsageError(f"scratch: random weights have no outliers for {kind} to move")
    if recipe.store == "stock" and kind != "registers":
        raise UsageError(f"--store stock: no class of transformers has {kind}; leave it out")


def _learned_rules(recipe: ConvertRecipe) -> None:
    settings = recipe.training
    if not recipe.steps:
        raise UsageError("--to registers: they are worth nothing untrained; say for how long, --steps N")
    if recipe.store == "code":
        raise UsageError("--store code: registers are stored in a class of transformers; leave it out")
    if settings.trained not in ("new", "all"):
        raise UsageError(f"--trained {settings.trained}: registers are trained alone (new) or with every weight (all)")
    if settings.text.files:
        raise UsageError(f"--train-text {settings.text.files[0]}: registers are trained on --images")
