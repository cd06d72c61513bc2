"""`--overwrite`: a new run in the place of an old one, whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from sinkctl.errors import Interrupted, ResumeError, UsageError
from sinkctl.result.store import RECIPE, RESULT, RunFolder, check_writable, resumable


def holds_run(path: Path) -> bool:
    """Whether a run is kept there, finished or not."""
    return (path / RESULT).exists() or resumable(path)


def check_replaceable(path: str | Path, task: str) -> None:
    """UsageError where a run of this task may not take the place of what is in this folder, or is at work there."""
    path = Path(path)
    RunFolder(path).check_idle()
    if not holds_run(path):
        return RunFolder(path).check_free()
    if path.is_symlink():
        raise UsageError(f"--overwrite: {path} is a link; name the folder itself")
    try:
        kept = yaml.safe_load((path / RECIPE).read_text(encoding="utf-8"))["task"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise UsageError(
            f"--overwrite: {path} is no run folder of sinkctl ({RECIPE} is missing or damaged); name another folder"
        ) from error
    if kept != task:  # of `convert`, say, which is a checkpoint
        raise UsageError(f"--overwrite: {path} holds a run of {kept}, and this is one of {task}; name another folder")
    check_writable(path.resolve().parent, "--overwrite")


@contextmanager
def replacing(path: str | Path | None, task: str) -> Iterator[None]:
    """A run of this task into this folder, if any: the run that is there goes once the new one is finished.

    It goes too where the new one was stopped and can be resumed. Until then it stands beside the folder, and comes back
    where the new one fails; it stays there where by then another process is at work in the folder, and the error says
    that. Of several processes, let the first do this.
    """
    if path is None:
        yield
        return
    check_replaceable(path, task)
    folder = Path(path).resolve()
    if not holds_run(folder):
        yield
        return
    aside = folder.with_name(f".{folder.name}.replaced")
    if aside.exists() and not (folder / RESULT).exists():  # its process was killed: the older run is the whole one
        shutil.rmtree(folder)
    else:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    try:
        yield
    except BaseException as error:
        if _at_work(folder):  # another began in the free folder: it is not ours to remove
            error.args = (f"{error}; another run is at work in {folder} by now: the one from before is in {aside}",)
        elif (folder / RESULT).exists() or (isinstance(error, Interrupted) and holds_run(folder)):
            shutil.rmtree(aside, ignore_errors=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _at_work(folder: Path) -> bool:
    """Whether another process is, in a run of its own."""
    try:
        RunFolder(folder).check_idle()
    except ResumeError:
        return True
    return False
