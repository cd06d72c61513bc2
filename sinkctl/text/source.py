"""Decompressed bytes of one input, in reads of an exact size."""

import bz2
import gzip
import lzma
import stat
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from sinkctl import small_file
from sinkctl.errors import TextError

STDIN = "-"
ZSTD_INPUT = 512  # compressed bytes decoded at once: one such step cannot expand past about 16 MiB


class Zstd:
    """A .zst file as a reader that, unlike `zstandard.open`, notices a truncated last frame."""

    def __init__(self, raw: BinaryIO) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise TextError(f"{raw.name}: reading .zst needs zstandard; pip install 'sinkctl[zstd]'") from error
        self.error = zstandard.ZstdError
        self._parts = self._decompressed(raw, zstandard.ZstdDecompressor())
        self._ready = bytearray()

    def _decompressed(self, raw: BinaryIO, zstd: Any) -> Iterator[bytes]:
        frame = None
        while data := raw.read(ZSTD_INPUT):
            while data:
                frame = frame or zstd.decompressobj()
                yield frame.decompress(data)
                data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        if frame is not None:
            raise EOFError("the file ends inside a frame")

    def read(self, size: int) -> bytes:
        while len(self._ready) < size:
            part = next(self._parts, None)
            if part is None:
                break
            self._ready += part
        out = bytes(self._ready[:size])
        del self._ready[:size]
        return out


COMPRESSED = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".xz": lzma.LZMAFile,
    ".bz2": bz2.BZ2File,
    ".zst": Zstd,
}


class Source:
    """One open input; `-` is standard input."""

    def __init__(self, name: str | Path) -> None:
        self.name = str(name)
        self.is_pipe = is_pipe(name)
        self.compression = compression(name)
        try:
            self._raw = sys.stdin.buffer if self.name == STDIN else open(name, "rb")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise TextError(f"{self.name}: cannot be opened ({error.strerror}); check the path") from error
        self._data = COMPRESSED[self.compression](self._raw) if self.compression else self._raw
        self._damage = (EOFError, OSError, zlib.error, lzma.LZMAError, getattr(self._data, "error", EOFError))
        self.bytes_read = 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        parts = []
        try:
            while size and (part := self._data.read(size)):
                parts.append(part)
                size -= len(part)
                self.bytes_read += len(part)
        except self._damage as error:
            what = f"damaged or cut short {self.compression} data" if self.compression else "cannot be read"
            raise TextError(
                f"{self.name}: {what} after {self.bytes_read} bytes of text ({error}); get the file again"
            ) from error
        return b"".join(parts)

    def bytes_taken(self) -> int:
        """Bytes consumed of the file as it is on disk."""
        return self._raw.tell() if self.compression else self.bytes_read

    def close(self) -> None:
        if self.name != STDIN:
            self._raw.close()


def compression(name: str | Path) -> str | None:
    suffix = Path(name).suffix.lower()
    return suffix if suffix in COMPRESSED else None


def is_pipe(name: str | Path) -> bool:
    """Whether it is there, and empty the second time that it is read."""
    return str(name) == STDIN or small_file.is_pipe(name)


def is_records(name: str | Path) -> bool:
    """Whether the name, its compression suffix aside, ends in .jsonl."""
    path = Path(name)
    return (path.with_suffix("") if compression(path) else path).suffix.lower() == ".jsonl"


def holds_records(name: str | Path, field: str | None) -> bool:
    """Whether it is read as records: a .jsonl file; a pipe where their field is named."""
    return is_records(name) or (field is not None and is_pipe(name))


def check(files: Sequence[str | Path]) -> None:
    """Raise TextError for what can be seen to be unreadable before reading anything."""
    if not files:
        raise TextError("no text given; name a file, or - for standard input")
    if sum(str(name) == STDIN for name in files) > 1:
        raise TextError("-: standard input can be read only once; name it once")
    for name in files:
        if str(name) == STDIN:
            continue
        if not str(name):
            raise TextError("the name of a text is empty; name a file, or - for standard input")
        try:
            mode = Path(name).stat().st_mode
        except OSError as error:
            raise TextError(f"{name}: {_missing(error)}; check the path") from error
        if stat.S_ISDIR(mode):
            raise TextError(f"{name}: is a directory; name the files in it")


def _missing(error: OSError) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)


def fingerprint(files: Sequence[str | Path]) -> list[dict[str, str | int | None]]:
    """Path and size on disk of each input; the size of a pipe is None."""
    check(files)
    return [{"path": str(name), "size": None if is_pipe(name) else Path(name).stat().st_size} for name in files]
