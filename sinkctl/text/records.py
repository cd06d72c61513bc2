"""JSON Lines: the text field of each record, joined by blank lines."""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from sinkctl.errors import ResumeError, TextError
from sinkctl.text.decode import NOTHING, Characters, Errors, bom_length
from sinkctl.text.source import Source

JOIN = "\n\n"
READ = 1 << 16  # bytes at once
SURROGATE = re.compile("[\ud800-\udfff]")


class Record(NamedTuple):
    """One record's text, and where its line is: bytes `byte … end` of the decompressed file."""

    text: str
    byte: int
    line: int
    end: int
    sha256: str = ""  # of all bytes before `end`


class RecordDecoder:
    """One object a line; the text is `"\\n\\n".join(record[field])`, blank lines skipped.

    Every character has the byte offset and the line of its record's line; a join has those of the record after it.
    """

    def __init__(self, name: str, field: str, errors: Errors) -> None:
        self.name, self.field, self.errors = name, field, errors
        self._pending: list[bytes] = []
        self._byte = 0  # of the first pending byte
        self._line = 1
        self._first = True

    def feed(self, data: bytes, final: bool = False) -> Characters:
        """The text of the records that `data` completes; `final` says that nothing follows."""
        self._pending.append(data)
        if not final and b"\n" not in data:
            return NOTHING
        texts, starts, numbers = [], [], []
        for record in self._complete(b"".join(self._pending), final):
            texts.append(("" if self._first else JOIN) + record.text)
            starts.append(record.byte)
            numbers.append(record.line)
            self._first = False
        lengths = [len(text) for text in texts]
        return Characters(
            "".join(texts),
            np.repeat(np.array(starts, np.int64), lengths),
            np.repeat(np.array(numbers, np.int64), lengths),
        )

    def each(self, data: bytes) -> Iterator[str]:
        """The text of every record of a whole file."""
        return (record.text for record in self._complete(data, final=True))

    def records(self, source: Source, after: "Record | None" = None) -> Iterator["Record"]:
        """The records of a source one by one, those behind `after`; ResumeError where it does not stand there."""
        read = sha256()
        if after is not None:
            self._byte, self._line = after.end, after.line + 1
            while source.bytes_read < after.end and (raw := source.read(min(READ, after.end - source.bytes_read))):
                read.update(raw)
            if source.bytes_read < after.end or read.hexdigest() != after.sha256:
                raise ResumeError(
                    f"{self.name}: changed since the run was started (in its first {after.end} bytes); start a new run"
                )
        raw = b"\n"
        while raw:
            raw = source.read(READ)
            self._pending.append(raw)
            if not raw or b"\n" in raw:
                data, first = b"".join(self._pending), self._byte
                view, hashed = memoryview(data), self._byte
                for record in self._complete(data, final=not raw):
                    read.update(view[hashed - first : record.end - first])
                    hashed = record.end
                    yield record._replace(sha256=read.hexdigest())
                read.update(view[hashed - first : self._byte - first])  # blank lines

    def _complete(self, data: bytes, final: bool) -> Iterator["Record"]:
        """The records of `data`, which stands at `_byte`; what is left of an unfinished line is pending."""
        if self._byte == 0:
            self._byte = bom_length(self.name, data, self.errors)
            data = data[self._byte :]
        lines = data.split(b"\n")
        self._pending = [] if final else [lines.pop()]
        for index, line in enumerate(lines):
            text = self._text(line) if line.strip() else None
            begin, number = self._byte, self._line
            self._byte += len(line) + 1
            self._line += 1
            if text is not None:
                without_newline = final and index == len(lines) - 1
                yield Record(text, begin, number, self._byte - without_newline)

    def _text(self, line: bytes) -> str:
        try:
            record = json.loads(line.decode("utf-8", self.errors))
        except UnicodeDecodeError as error:
            raise self._error(
                f"byte {self._byte + error.start} is not UTF-8 (0x{line[error.start]:02x});"
                " convert the file, or pass --errors replace"
            ) from error
        except (ValueError, RecursionError) as error:
            raise self._error(f"not JSON ({error}); each line of a .jsonl file is one object") from error
        if not isinstance(record, dict):
            raise self._error(f"a JSON {type(record).__name__}, not an object; each line is one object")
        text = record.get(self.field)
        if not isinstance(text, str):
            what = f"field {self.field!r} is not a string" if self.field in record else f"no field {self.field!r}"
            texts = ", ".join(key for key, value in record.items() if isinstance(value, str)) or "none"
            raise self._error(f"{what}; --field names one that is (string fields here: {texts})")
        if SURROGATE.search(text):
            if self.errors == "strict":
                raise self._error("half a surrogate pair (\\ud800 to \\udfff); mend it, or pass --errors replace")
            text = SURROGATE.sub("\ufffd", text)
        return text

    def _error(self, what: str) -> TextError:
        return TextError(f"{self.name}:{self._line}: {what}")
