"""Files of images or of sound, named one by one or by their folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from sinkctl.check.measure import PICTURES, SOUNDS
from sinkctl.errors import TextError, UsageError

ENDINGS = {"images": PICTURES, "sound": SOUNDS}


def files_of(what: Literal["images", "sound"], names: Iterable[str]) -> list[Path]:
    """TextError for what is not there or a folder without any, UsageError for a file that is of the other kind."""
    found = []
    for path in map(Path, names):
        if not path.exists():
            raise TextError(f"{path}: no such file or folder; check the path")
        own = [path]
        if path.is_dir():
            own = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS[what] and p.is_file())
            if not own:
                raise TextError(f"{path}: no {what} in it ({', '.join(sorted(ENDINGS[what]))})")
        other = next((kind for kind, endings in ENDINGS.items() if path.suffix.lower() in endings), what)
        if other != what and path.is_file():
            raise UsageError(f"{path}: the model takes {what}, not {other}")
        found += own
    return found
