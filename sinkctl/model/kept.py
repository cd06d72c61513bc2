"""What sinkctl keeps between runs, in one folder that the user can see and clear. Imports no torch.

`SINKCTL_CACHE` names another folder, or is `off`; else it is `sinkctl` in `XDG_CACHE_HOME`, or in `~/.cache`.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

VARIABLE = "SINKCTL_CACHE"
OFF = "off"
KEPT = "gguf"  # tokenizers of GGUF files
WORK = "work-"  # what a run needs while it loads; a killed one leaves it


def cache_folder() -> Path | None:
    """Where things are kept; None where the user wants nothing kept."""
    said = os.environ.get(VARIABLE, "")
    if said.lower() == OFF:
        return None
    if said:
        return Path(said).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "sinkctl"


def cache_size(folder: Path) -> int:
    """Bytes of what sinkctl put there."""
    return sum(file.stat().st_size for path in _ours(folder) for file in path.rglob("*") if file.is_file())


def clear_cache(folder: Path) -> None:
    """Remove what sinkctl put there, and nothing else: a user may have named a folder of theirs."""
    for path in _ours(folder):
        shutil.rmtree(path)


def _ours(folder: Path) -> list[Path]:
    return [path for path in (folder / KEPT, *folder.glob(f"{WORK}*")) if path.is_dir()]


@contextmanager
def work_folder(room: int, notes: list[str]) -> Iterator[Path]:
    """An empty folder for the time of loading, beside what is kept, that has `room` bytes.

    Where that cannot be written, or is full, the system's folder for temporary files stands in.
    """
    folder = cache_folder()
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(folder).free < room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        work = TemporaryDirectory(prefix=WORK, dir=folder)
    except OSError as error:
        notes.append(f"Nothing is kept for the next time: {folder}: {error.strerror}; {VARIABLE} names another folder.")
        work = TemporaryDirectory(prefix="sinkctl-")
    with work as path:
        yield Path(path)


def keep(made: Path, kept: Path) -> Path:
    """Move a finished folder to where it is looked for; where it is now. One that another process put there stays."""
    folder = cache_folder()
    if folder is None or made.parent.parent != folder:
        return made
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        made.rename(kept)
    except OSError:
        return kept if kept.is_dir() else made
    return kept
