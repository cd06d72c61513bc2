"""Before checkpoints are measured."""

import os
from collections.abc import Sequence
from pathlib import Path

from sinkctl.check.texts import check_texts
from sinkctl.errors import TextError, UsageError
from sinkctl.formats import NEAR, format_of
from sinkctl.model.adapter_files import resolved
from sinkctl.model.files import check_checkpoint
from sinkctl.model.named import CONFIG, resolve
from sinkctl.recipe.checkpoints import checkpoints
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.compare import check_names, parse
from sinkctl.small_file import is_there, text_of
from sinkctl.text.source import STDIN, is_pipe

# What `--fail-on` may name, for a checkpoint; of several, NAME@LABEL names one and NAME holds for each.
METRICS = (
    "sink_rate", "alpha_max", "tail_mass", "entropy", "learned_mass", "massive_max", "massive_ratio", "value_drain",
    "kurtosis_max", "max_abs", "effective_rank_min", "dormant_heads", "outlier_patches", "balance_error",
    "predicted.precision", "predicted.recall",
    "cost.first_key", "cost.first_key_scored", "cost.other_sink", "cost.other_sink_scored",
    "mass.sound", "mass.padding", "mass.BOS", "mass.first", "mass.image", "mass.text",
    "cost.no_sinks", "cost.massive_zeroed", "cost.largest_zeroed", "cost.no_bos", "cost.first_key_text",
    "cost.image_hidden", "cost.half_moved", "alarms",
)  # fmt: skip
INPUTS = ("natural", "natural_no_bos", "random", "random_no_bos", "repeat", "repeat_no_bos", "images", "multimodal")
PARTS = tuple(f"{first}{part}" for first in ("", "random_") for part in ("encoder", "decoder", "cross_attention"))
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SOUNDS = {".wav"}
HEARING = ("num_mel_bins", "input_feat_per_channel", "moonshine")  # in the config of what hears sound


def check_inputs(recipe: MeasureRecipe) -> None:
    """Raises UsageError or TextError."""
    rules(recipe)
    if recipe.suspect.file is not None:
        candidates(recipe.suspect.file)
    missing = next((name for name in recipe.input.files if name != STDIN and not Path(name).exists()), None)
    if missing is not None:
        raise TextError(f"{missing}: no such file; check the path")
    names = [resolved(settings).name for _, settings, _ in checkpoints(recipe)]
    if not any(_speaks_of(("image_size", "vision_config", *HEARING), name) for name in names):
        other = next((name for name in recipe.input.files if Path(name).suffix.lower() in PICTURES | SOUNDS), None)
        if other is not None:
            what = recipe.checkpoints[0] if recipe.checkpoints else recipe.model.name
            kind = "sound" if Path(other).suffix.lower() in SOUNDS else "images"
            raise UsageError(f"{other}: {what} reads text, not {kind}; --text takes files of it")
        check_texts(recipe.input.files, recipe.input.field, recipe.input.errors)


def rules(recipe: MeasureRecipe) -> None:
    """UsageError for thresholds on what is not measured, and for checkpoints that are no such."""
    labels = [label for label, _, _ in checkpoints(recipe)]
    pipe = next(filter(is_pipe, recipe.input.files), None)
    if pipe is not None and len(labels) > 1:
        raise UsageError(f"{pipe}: a pipe can be read only once, and there are several checkpoints; name a file")
    steps = (f"step_{number}" for number in range(1, recipe.input.steps + 1))  # of a diffusion transformer
    known = [*METRICS, *(f"{name}.sink_rate" for name in (*INPUTS, *PARTS, *steps))]
    thresholds = [parse(text) for text in recipe.fail_on]
    costly = [t.metric for t in thresholds if t.metric.startswith("cost.")]
    if costly and not recipe.cost.run:
        raise UsageError(f"--fail-on {costly[0]}: costs are not measured in this run; leave --no-cost out")
    if recipe.suspect.file is None and any(t.metric.partition("@")[0] == "alarms" for t in thresholds):
        raise UsageError("--fail-on alarms: nothing is suspected; name candidates, --suspect FILE")
    check_names(thresholds, ["measure.seconds", *known, *(f"{name}@{label}" for label in labels for name in known)])


def candidates(path: str) -> list[str]:
    """Of --suspect: one a line, empty lines and repetitions left out. TextError for a file without any."""
    if not is_there(path):
        raise TextError(f"--suspect {path}: no such file; write candidates in it, one a line")
    try:
        lines = text_of(path).split("\n")
    except OSError as error:
        raise TextError(f"--suspect {path}: cannot be read ({error.strerror}); check who may read it") from error
    except UnicodeDecodeError as error:
        raise TextError(f"--suspect {path}: is no UTF-8 text (byte {error.start}); convert the file") from error
    found = list(dict.fromkeys(line for line in lines if line.strip()))
    if not found:
        raise TextError(f"--suspect {path}: no candidates in it; write one a line")
    return found


def check_local(recipe: MeasureRecipe) -> None:
    """ModelError for a checkpoint on this disk that cannot be loaded; of a Hub id a plan asks nothing."""
    for _, settings, _ in checkpoints(recipe):
        if resolve(settings.name).local:
            check_checkpoint(settings)


def check_kinds(images: Sequence[str], audio: Sequence[str]) -> None:
    """UsageError for a file given as an image or as sound that looks like neither, a text say."""
    for flag, names, known in (("--images", images, PICTURES), ("--audio", audio, SOUNDS)):
        for name in names:
            if not os.path.isfile(name) or Path(name).suffix.lower() in known:
                continue
            with open(name, "rb") as file:
                if format_of(file.read(NEAR)) is None:
                    kinds = ", ".join(sorted(known))
                    raise UsageError(f"{flag} {name}: looks like text; {flag} takes {kinds} files, --text takes texts")


def is_picture(name: str) -> bool:
    """Whether a file is one by its name; a folder counts as images too."""
    return Path(name).suffix.lower() in PICTURES or Path(name).is_dir()


def _speaks_of(fields: Sequence[str], name: str) -> bool:
    """Whether a checkpoint's config may have one of these: not where none is in it; of a Hub id nobody knows yet."""
    path, form = Path(name) / CONFIG, resolve(name).form
    if form not in ("folder", "hub"):
        return False
    return not path.is_file() or any(field in path.read_text(encoding="utf-8") for field in fields)
