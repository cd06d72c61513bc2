"""What sinkctl keeps between runs, in one folder that the user can see and clear. Imports no torch.

It is `sinkctl-cache` in the folder that `SINKCTL_CACHE` names (`off`: nothing is kept), else in `XDG_CACHE_HOME` or
`~/.cache`. A tag in it (bford.info/cachedir) says that sinkctl made it: nothing is removed where that is missing.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

from sinkctl.errors import UsageError

VARIABLE = "SINKCTL_CACHE"
OFF = "off"
FOLDER = "sinkctl-cache"
KEPT = "gguf"  # tokenizers of GGUF files
WORK = "work-"  # what a run needs while it loads; a killed one leaves it
LOCK = "lock"  # of the whole: work folders begin and go; of a work folder: its process runs
PATIENCE = 60.0  # seconds, while another process takes leftovers away
TAG = "CACHEDIR.TAG"
TAGGED = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This file is a cache directory tag created by sinkctl.\n"
    b"# For information about cache directory tags, see https://bford.info/cachedir/\n"
)


def cache_folder() -> Path | None:
    """Where things are kept; None where the user wants nothing kept."""
    said = os.environ.get(VARIABLE, "")
    if said.lower() == OFF:
        return None
    return Path(said or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / FOLDER


def cache_size(folder: Path) -> int:
    """Bytes of what sinkctl put there; what links lead to is none of it."""
    parts = [folder / KEPT, *folder.glob(f"{WORK}*")] if _is_ours(folder) else []
    files = [file for path in parts if not path.is_symlink() for file in path.rglob("*")]
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


def clear_cache(folder: Path) -> None:
    """Remove what sinkctl put there, but for the work folders of processes that run.

    UsageError for a folder that sinkctl did not make.
    """
    if not folder.exists():
        return
    if not _is_ours(folder):
        raise UsageError(f"{folder}: no {TAG} of sinkctl's is in it, so nothing is removed; remove it by hand")
    with FileLock(folder / LOCK, timeout=PATIENCE):
        _remove(folder / KEPT)
        _sweep(folder)


@contextmanager
def work_folder(room: int, notes: list[str]) -> Iterator[Path]:
    """An empty folder for the time of loading, beside what is kept, that has `room` bytes.

    Where that cannot be written, or is full, the system's folder for temporary files stands in.
    """
    folder = cache_folder()
    try:
        work, held = (TemporaryDirectory(prefix="sinkctl-"), None) if folder is None else _begun(folder, room)
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        why = getattr(error, "strerror", None) or error
        notes.append(f"Nothing is kept for the next time: {folder}: {why}; {VARIABLE} names another folder.")
        work, held = TemporaryDirectory(prefix="sinkctl-"), None
    with work as path:
        try:
            yield Path(path)
        finally:
            if held is not None:
                held.release()


def keep(made: Path, kept: Path) -> Path:
    """Move a finished folder to where it is looked for; where it is now. One that another process put there stays."""
    folder = cache_folder()
    if folder is None or made.parent.parent != folder:
        return made
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        made.rename(kept)
    except OSError:
        return made
    return kept


def _begun(folder: Path, room: int) -> tuple[TemporaryDirectory, FileLock]:
    """A work folder, and the lock that says it is in use; what killed processes left is taken away first."""
    _make(folder)
    with FileLock(folder / LOCK, timeout=PATIENCE):
        _sweep(folder)
        if shutil.disk_usage(folder).free < room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # Once its lock is released, another process may be first to take it away.
        work = TemporaryDirectory(prefix=WORK, dir=folder, ignore_cleanup_errors=True)
        held = FileLock(Path(work.name) / LOCK)
        held.acquire(timeout=0)
    return work, held


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    others = {path.name for path in folder.iterdir()} - {TAG}  # before the tag, which another process may write now
    if _is_ours(folder):
        return
    if others:
        raise OSError(errno.EEXIST, f"holds {min(others)}, which sinkctl did not put there")
    (folder / TAG).write_bytes(TAGGED)


def _is_ours(folder: Path) -> bool:
    try:
        return (folder / TAG).read_bytes() == TAGGED
    except OSError:
        return False


def _sweep(folder: Path) -> None:
    """Remove the work folders that no running process holds; inside the lock of the whole."""
    for path in folder.glob(f"{WORK}*"):
        if path.is_symlink() or _is_idle(path):
            _remove(path)


def _is_idle(work: Path) -> bool:
    try:
        with FileLock(work / LOCK, timeout=0):
            return True
    except (Timeout, OSError):  # in use, or another user's
        return False


def _remove(path: Path) -> None:
    if path.is_symlink():  # what it leads to is not ours
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
