"""Before part of the first token's attention is redistributed: whether the heads are there, and texts to choose by."""

from collections.abc import Sequence
from pathlib import Path

from sinkctl.cache.policies import Policy
from sinkctl.check.precision import config_of
from sinkctl.check.texts import check_texts
from sinkctl.errors import UsageError
from sinkctl.model.settings import ModelSettings
from sinkctl.text.source import is_pipe


def check_named(policies: Sequence[Policy], settings: ModelSettings) -> None:
    """UsageError for heads that a folder's config knows nothing of; the rest the model shows, once it is loaded."""
    named = [head for p in policies if p.redistribute is not None for head in p.redistribute.chosen or ()]
    config = config_of(settings) if named else {}
    sizes = [config.get(name) for name in ("num_hidden_layers", "num_attention_heads")]
    if not all(isinstance(size, int) for size in sizes):
        return
    for head in named:
        if any(number >= size for number, size in zip(head, sizes, strict=True)):
            raise UsageError(
                f"--redistribute-heads {head[0]}.{head[1]}: no such head; layers are 0 to {sizes[0] - 1}, heads 0 to "
                f"{sizes[1] - 1}"
            )


def check_calibration(policies: Sequence[Policy], scored: Sequence[str], built_in: bool = False) -> None:
    """UsageError or TextError for texts to calibrate on that are none, or that are scored as well.

    `built_in` says that all of the built-in text is scored.
    """
    for asked in (p.redistribute for p in policies if p.redistribute is not None and not p.redistribute.settled):
        if built_in and not asked.files:
            raise UsageError(
                f"--redistribute-heads {asked.heads}: the built-in text would be calibrated on and scored; give "
                "--redistribute-text FILE, or --limit N to leave out its end"
            )
        if (pipe := next(filter(is_pipe, asked.files), None)) is not None:
            raise UsageError(f"--redistribute-text {pipe}: a pipe can be read only once; name a file")
        twice = {Path(name).resolve() for name in asked.files} & {Path(name).resolve() for name in scored}
        if twice:
            raise UsageError(f"--redistribute-text {twice.pop().name}: is scored as well; give another text")
        check_texts(asked.files)
