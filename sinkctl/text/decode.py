"""Bytes to characters, each with the byte it starts at and its line."""

import codecs
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sinkctl.errors import TextError
from sinkctl.formats import WORDS, format_of

Errors = Literal["strict", "replace"]
UTF16_32_BOMS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LONGEST_BOM = 4
UNPACK = {"gzip": "gzip -dc", "bzip2": "bzip2 -dc", "xz": "xz -dc", "zstd": "zstd -dc"}


@dataclass(frozen=True)
class Characters:
    """Some text, and for each character its byte offset in the decompressed file and its 1-based line."""

    text: str
    bytes: np.ndarray
    lines: np.ndarray

    @classmethod
    def joined(cls, parts: "list[Characters]") -> "Characters":
        return cls(
            "".join(part.text for part in parts),
            np.concatenate([part.bytes for part in parts]),
            np.concatenate([part.lines for part in parts]),
        )

    def before(self, count: int) -> "Characters":
        """The first `count` characters."""
        return Characters(self.text[:count], self.bytes[:count], self.lines[:count])

    def after(self, count: int) -> "Characters":
        """Everything but the first `count` characters, in memory of its own."""
        return Characters(self.text[count:], self.bytes[count:].copy(), self.lines[count:].copy())


NOTHING = Characters("", np.empty(0, np.int64), np.empty(0, np.int64))


def decode_utf8(data: bytes, errors: Errors, final: bool) -> tuple[str, np.ndarray, int]:
    """Text, first byte of each character, bytes consumed; an unfinished last character is left unless `final`.

    With "replace", each range `UnicodeDecodeError` reports becomes one U+FFFD, which is what
    `bytes.decode(errors="replace")` does; the decoder has no state between characters, so cutting the input anywhere
    and keeping back the unfinished character gives the text of the whole.
    """
    starts = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    parts, done = [], 0
    view = memoryview(data)
    while True:
        try:
            text, length = codecs.utf_8_decode(view[done:], "strict", final)
            parts.append(text)
            done += length
            return "".join(parts), np.flatnonzero(starts[:done]).astype(np.int64), done
        except UnicodeDecodeError as error:
            bad, end = done + error.start, done + error.end
            if errors == "strict":
                raise UnicodeDecodeError("utf-8", data, bad, end, error.reason) from None
            parts.append(codecs.utf_8_decode(view[done:bad], "strict", True)[0] + "\ufffd")
            starts[bad:end] = False
            starts[bad] = True
            done = end


def bom_length(name: str, head: bytes, errors: Errors) -> int:
    """Bytes of a UTF-8 byte order mark to drop; one of UTF-16 or UTF-32 is an error unless bad bytes are replaced."""
    if errors == "strict" and (encoding := marked(head)) is not None:
        raise TextError(f"{name}: is {encoding}, not UTF-8; convert it first: iconv -f {encoding} -t UTF-8 {name}")
    return len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0


def marked(head: bytes) -> str | None:
    """UTF-16 or UTF-32, where a byte order mark says so."""
    return next((encoding for bom, encoding in UTF16_32_BOMS.items() if head.startswith(bom)), None)


class TextDecoder:
    """Plain UTF-8 text; a byte order mark at its start is dropped, newlines are kept as they are."""

    def __init__(self, name: str, errors: Errors) -> None:
        self.name, self.errors = name, errors
        self._pending = b""
        self._byte = 0  # of the first pending byte
        self._line = 1

    def feed(self, data: bytes, final: bool = False) -> Characters:
        """The characters that `data` completes; `final` says that nothing follows."""
        data = self._pending + data
        if self._byte == 0:
            if len(data) < LONGEST_BOM and not final:
                self._pending = data
                return NOTHING
            self._byte = bom_length(self.name, data, self.errors)
            data = data[self._byte :]
        try:
            text, starts, used = decode_utf8(data, self.errors, final)
        except UnicodeDecodeError as error:
            if not self._byte and (
                tool := UNPACK.get(found := format_of(data) or "")
            ):  # a pipe, which no name tells of
                raise TextError(f"{self.name}: is {WORDS[found]}, not text; send it through {tool}") from error
            raise TextError(
                f"{self.name}: byte {self._byte + error.start} is not UTF-8 (0x{data[error.start]:02x});"
                " convert the file, or pass --errors replace"
            ) from error
        newlines = np.cumsum(np.frombuffer(data, np.uint8)[starts] == ord("\n"))
        lines = np.concatenate([[0], newlines])[:-1].astype(np.int64) + self._line
        out = Characters(text, starts + self._byte, lines)
        self._pending = data[used:]
        self._byte += used
        self._line += int(newlines[-1]) if len(newlines) else 0
        return out
