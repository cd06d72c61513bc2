"""Before a vision transformer is given registers."""

from importlib.util import find_spec
from pathlib import Path

from sinkctl.errors import TextError, UsageError
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.result.compare import check_names, parse

# Digits: half of each class is learned from; the rarest of the ten has 174.
LEAST, MOST, EVEN = 40, 1740, 20
METRICS = ("outlier_patches", "patch_max", "smoothness", "cosine", "kl", "knn", "linear_probe")
BEFORE = ("outlier_patches", "patch_max", "smoothness", "knn", "linear_probe")
NAMES = (*METRICS, *(f"original.{name}" for name in BEFORE), "convert.seconds")


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
    if recipe.evaluation.digits and find_spec("sklearn") is None:
        raise UsageError(
            f"evaluation.digits={recipe.evaluation.digits}: they come with scikit-learn; pip install scikit-learn"
        )
    asked = recipe.evaluation.digits
    if asked and (asked % EVEN or not LEAST <= asked <= MOST):
        raise UsageError(
            f"evaluation.digits={asked}: as many of each class; a multiple of {EVEN} from {LEAST} to {MOST:,}"
        )
    of_digits = [text for text in recipe.fail_on if parse(text).metric.rpartition(".")[2] in METRICS[-2:]]
    if of_digits and not recipe.evaluation.digits:
        raise UsageError(f"--fail-on {of_digits[0]}: no digits are shown; --set evaluation.digits=400")
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
