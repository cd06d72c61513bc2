"""Small files that a user names, a recipe or a saved result: read whole, and inside `pipes_kept` a pipe's bytes once.

A pipe, as `<(command)` makes one, is empty when it is read again; whoever asks again is told what was in it.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_held: ContextVar[dict[str, bytes] | None] = ContextVar("_held", default=None)


@contextmanager
def pipes_kept() -> Iterator[None]:
    """Inside, what a pipe held is kept: for as long as a command runs."""
    token = _held.set({})
    try:
        yield
    finally:
        _held.reset(token)


def is_there(path: str | Path) -> bool:
    """Whether it is a file or a pipe."""
    return Path(path).is_file() or is_pipe(path)


def is_pipe(path: str | Path) -> bool:
    """Whether it is no file, and can be read: once."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def bytes_of(path: str | Path) -> bytes:
    """All that is in it; OSError as reading raises it."""
    held, name = _held.get(), str(path)
    if held is None or not is_pipe(path):
        return Path(path).read_bytes()
    if name not in held:
        held[name] = Path(path).read_bytes()
    return held[name]


def text_of(path: str | Path) -> str:
    """The same as text, its lines ending as Python's own do; OSError, or UnicodeDecodeError where it is not UTF-8."""
    return bytes_of(path).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
