"""Texts by their first bytes."""

import os
import stat
import sys
from collections.abc import Sequence

from sinkctl.errors import TextError, UsageError
from sinkctl.text import RecordDecoder, Source, holds_records, is_records
from sinkctl.text.decode import Errors, TextDecoder
from sinkctl.text.foreign import foreign
from sinkctl.text.source import STDIN, check, compression, is_pipe

# Bytes looked at: of a text, of all of them, at least; at once.
HEAD, ALL_HEADS, LEAST_HEAD, PIECE = 1 << 23, 1 << 24, 1 << 12, 1 << 20


def check_texts(files: Sequence[str], field: str | None = None, errors: Errors = "strict", usual: str = "text") -> None:
    """TextError for files that are not there, that begin as no text, or that hold none at all; none given is fine.

    Pipes are left alone. `usual` is the field of records where `field` names none.
    """
    if not files:
        return
    check(files)
    size = max(LEAST_HEAD, min(HEAD, ALL_HEADS // len(files)))
    # Every one is looked at.
    hold = [_holds_text(name, field or usual, errors, _looked_at(name, size)) for name in files]
    if not any(hold):
        raise TextError(f"{', '.join(files)}: no text in it; check the file")


def _looked_at(name: str, size: int) -> int:
    """Of what is compressed less, as unpacking it takes the time."""
    return size if compression(name) is None else min(size, PIECE)


def _is_nothing(name: str) -> bool:
    """Whether a pipe, as far as it can be told without reading, ends before it begins: /dev/null, an empty file."""
    try:
        state = os.fstat(sys.stdin.fileno()) if name == STDIN else os.stat(name)
        null = os.stat(os.devnull)
    except (OSError, ValueError, AttributeError):  # no standard input, or one of Python's own
        return False
    nothing = stat.S_ISCHR(state.st_mode) and state.st_rdev and os.path.samestat(state, null)
    return bool(nothing or (stat.S_ISREG(state.st_mode) and state.st_size == 0))


def check_field(field: str | None, files: Sequence[str], what: str = "texts") -> None:
    """UsageError for a field without a file of records."""
    if field is not None and not any(holds_records(name, field) for name in files):
        raise UsageError(f"--field {field}: none of the {what} is a .jsonl file")


def _holds_text(name: str, field: str, errors: Errors, size: int) -> bool:
    if is_pipe(name):
        return not _is_nothing(name)
    decoder = RecordDecoder(name, field, errors) if is_records(name) else TextDecoder(name, errors)
    source, seen, holds = Source(name), 0, False
    try:
        while seen < size:
            wanted = min(PIECE, size - seen)
            piece = source.read(wanted)
            if not seen and (what := foreign(name, piece)) is not None:
                raise TextError(f"{name}: {what}")
            if errors == "strict" and b"\0" in piece:  # UTF-8 for a character that nobody writes
                raise TextError(
                    f"{name}: byte {seen + piece.index(0)} is zero, as in no text; take such bytes out "
                    "(tr -d '\\000'), or pass --errors replace, which leaves them in"
                )
            whole, seen = len(piece) < wanted, seen + len(piece)
            holds |= bool(decoder.feed(piece, final=whole).text)
            if whole:
                return holds
    finally:
        source.close()
    return True
