"""The head of a GGUF file: its fields, its vocabulary, and where each tensor lies. Imports no torch.

The format: github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package reads it too, and takes half a minute
for a vocabulary of 262,144 tokens, as it makes several numpy arrays of every string; this takes half a second.
"""

import mmap
import struct
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from sinkctl.errors import ModelError
from sinkctl.formats import NEAR, WORDS, format_of

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
ALIGNMENT = 32  # of the data, where the file says nothing else


class TensorInfo(NamedTuple):
    """One tensor: its shape with the fastest dimension first, its ggml type, and bytes from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def values(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What stands before the data; `spans` are the bytes of each field, from its key to its end."""

    path: Path
    version: int
    fields: dict[str, Any]
    spans: dict[str, tuple[int, int]]
    tensors: list[TensorInfo]
    table: tuple[int, int]  # the bytes of the list of tensors

    @property
    def architecture(self) -> str:
        return str(self.fields.get("general.architecture", ""))

    @property
    def alignment(self) -> int:
        return int(self.fields.get("general.alignment", ALIGNMENT))

    @property
    def data(self) -> int:
        """Where the tensors begin."""
        return aligned(self.table[1], self.alignment)

    @property
    def tokens(self) -> list[str]:
        return self.fields.get("tokenizer.ggml.tokens", [])

    def token(self, name: str) -> int | None:
        """The id of a special one: bos, eos, unknown, padding."""
        return self.fields.get(f"tokenizer.ggml.{name}_token_id")


def aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def read_header(path: Path) -> Header:
    """The header of a file; ModelError for one that is no GGUF, of another version, or cut short inside the head."""
    state = path.stat()
    return _read(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, size: int, changed: int) -> Header:
    with path.open("rb") as file:
        head = file.read(NEAR)
        if not head or (MAGIC.startswith(head[:4]) and len(head) < 8):
            raise ModelError(f"{path}: is {f'cut short, {len(head)} bytes' if head else 'empty'}; download it again")
        if head[:4] != MAGIC:
            kind = format_of(head)
            is_what = "it does not begin with GGUF" if kind is None else f"it is {WORDS[kind]}"
            raise ModelError(f"{path}: is no GGUF file ({is_what}); download it again")
        start = head[:8]
        (version,) = struct.unpack("<I", start[4:])
        if version not in VERSIONS:
            swapped = struct.unpack(">I", start[4:])[0] in VERSIONS
            what = "of a big-endian machine" if swapped else f"of version {version}"
            raise ModelError(f"{path}: is a GGUF {what}; versions 2 and 3, little-endian, are read: convert it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as blob:
            try:
                return _Reader(blob).header(path, version)
            except (struct.error, IndexError, KeyError, OverflowError, MemoryError) as error:
                raise ModelError(f"{path}: is damaged or cut short inside its header; download it again") from error


class _Reader:
    """Goes through the bytes of a header."""

    def __init__(self, blob: mmap.mmap) -> None:
        self.blob, self.at = blob, 8

    def header(self, path: Path, version: int) -> Header:
        tensors, count = self.numbers("QQ")
        fields, spans = {}, {}
        for _ in range(count):
            start = self.at
            key = self.string()
            (kind,) = self.numbers("I")
            fields[key] = self.value(kind)
            spans[key] = (start, self.at)
        start = self.at
        infos = [self.tensor() for _ in range(tensors)]
        return Header(path, version, fields, spans, infos, (start, self.at))

    def tensor(self) -> TensorInfo:
        name = self.string()
        (dimensions,) = self.numbers("I")
        return TensorInfo(name, self.numbers(f"{dimensions}Q"), *self.numbers("IQ"))

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.numbers(PLAIN[kind])[0]
        kind, count = self.numbers("IQ")
        if kind in PLAIN:
            return list(self.numbers(f"{count}{PLAIN[kind]}"))
        return [self.value(kind) for _ in range(count)]

    def string(self) -> str:
        (length,) = self.numbers("Q")
        end = self.at + length
        if end > len(self.blob):
            raise IndexError(end)
        found = self.blob[self.at : end]
        self.at = end
        return found.decode("utf-8", "replace")

    def numbers(self, kinds: str) -> tuple:
        found = struct.unpack_from(f"<{kinds}", self.blob, self.at)
        self.at += struct.calcsize(f"<{kinds}")
        return found
