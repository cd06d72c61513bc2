"""JSON Lines: the text field of each record, joined by blank lines."""

import json
import re
from collections.abc import Iterator

import numpy as np

from sinkctl.errors import TextError
from sinkctl.text.decode import NOTHING, Characters, Errors, bom_length

JOIN = "\n\n"
SURROGATE = re.compile("[\ud800-\udfff]")


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
        data = b"".join(self._pending)
        if self._byte == 0:
            self._byte = bom_length(self.name, data, self.errors)
            data = data[self._byte :]
        lines = data.split(b"\n")
        self._pending = [] if final else [lines.pop()]
        texts, starts, numbers = [], [], []
        for line in lines:
            if line.strip():
                texts.append(("" if self._first else JOIN) + self._text(line))
                starts.append(self._byte)
                numbers.append(self._line)
                self._first = False
            self._byte += len(line) + 1
            self._line += 1
        lengths = [len(text) for text in texts]
        return Characters(
            "".join(texts),
            np.repeat(np.array(starts, np.int64), lengths),
            np.repeat(np.array(numbers, np.int64), lengths),
        )

    def each(self, data: bytes) -> Iterator[str]:
        """The text of every record of a whole file."""
        self._byte = bom_length(self.name, data, self.errors)
        for line in data[self._byte :].split(b"\n"):
            if line.strip():
                yield self._text(line)
            self._byte += len(line) + 1
            self._line += 1

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
