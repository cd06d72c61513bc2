"""Questions from a file: JSON Lines of texts and questions, a record at a time.

`{"text": "…"}` joins the stream, `{"question": "…", "answer": "…", "back": 20}` asks; one record may do both, the text
first. `answer` is a string or a list of them, `back` (a number or a string, optional) names the group in the table.
How far back an answer really stands is told by where its text last occurs as a word of its own, so answers that occur
nowhere else in the text tell it best.
"""

import json
from collections.abc import Iterator
from typing import Any

from sinkctl.errors import TextError
from sinkctl.tasks.questions.items import Item, Question
from sinkctl.text import Source, fingerprint
from sinkctl.text.decode import bom_length
from sinkctl.text.records import SURROGATE

READ = 1 << 16
SHAPE = 'a record is {"text": …}, {"question": …, "answer": …}, or both'


class RecordItems:
    """The items of a .jsonl file, compressed or not, or of standard input (`-`)."""

    reach = 0

    def __init__(self, name: str, shown: str):
        """`shown` is what errors call the file."""
        self._name, self._shown = name, shown
        (self._file,) = fingerprint([name])
        self._source: Source | None = None

    @property
    def share(self) -> float | None:
        """By the bytes read of the file on disk."""
        if self._source is None or self._file["size"] is None:
            return None
        return min(1.0, self._source.bytes_taken() / max(1, self._file["size"]))

    def __iter__(self) -> Iterator[Item]:
        self._source = Source(self._name)
        try:
            for number, line in enumerate(_lines(self._source, self._shown), 1):
                if line.strip():
                    place = f"{self._shown}:{number}"
                    yield _item(_parsed(line, place), place)
        finally:
            self._source.close()


def _lines(source: Source, shown: str) -> Iterator[bytes]:
    pending, first = b"", True
    while data := source.read(READ):
        if first:
            data, first = data[bom_length(shown, data, "strict") :], False
        *lines, pending = (pending + data).split(b"\n")
        yield from lines
    yield pending


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise TextError(f"{place}: byte {error.start} of the line is not UTF-8; convert the file") from error
    except (ValueError, RecursionError) as error:
        raise TextError(f"{place}: not JSON ({error}); each line is one object, {SHAPE}") from error
    if not isinstance(record, dict):
        raise TextError(f"{place}: a JSON {type(record).__name__}, not an object; {SHAPE}")
    return record


def _item(record: dict[str, Any], place: str) -> Item:
    text, asked, answer = (record.get(key) for key in ("text", "question", "answer"))
    if text is None and asked is None:
        known = f"fields here: {', '.join(record)}" if record else "it is empty"
        raise TextError(f"{place}: neither a text nor a question ({known}); {SHAPE}")
    if asked is None and answer is not None:
        raise TextError(f"{place}: an answer without a question; add the question, or leave the answer out")
    text = "" if text is None else _string(text, "text", place)
    if asked is None:
        return Item(place, text)
    asked = _string(asked, "question", place)
    if not asked.strip():
        raise TextError(f"{place}: an empty question; write one, or leave it out")
    if answer is None:
        raise TextError(f"{place}: a question without an answer; add the answer it is scored by")
    return Item(place, text, Question(asked, _answers(answer, place), _group(record.get("back"), place)))


def _answers(answer: Any, place: str) -> tuple[str, ...]:
    given = answer if isinstance(answer, list) else [answer]
    answers = tuple(_string(each, "answer", place).strip() for each in given)
    if not answers or not all(answers):
        raise TextError(f"{place}: an empty answer; write what counts as right")
    if any("\n" in each for each in answers):
        raise TextError(f"{place}: an answer of several lines; only the first line generated is scored, so give one")
    return answers


def _group(back: Any, place: str) -> str:
    if back is None:
        return ""
    if isinstance(back, bool) or not isinstance(back, (int, float, str)):
        raise TextError(f"{place}: back is a JSON {type(back).__name__}; it names a group: a number or a string")
    return f"{back:g}" if isinstance(back, float) else str(back)


def _string(value: Any, field: str, place: str) -> str:
    if not isinstance(value, str):
        extra = ", or a list of them" if field == "answer" else ""
        raise TextError(f"{place}: {field} is a JSON {type(value).__name__}; write a string{extra}, in quotes")
    if SURROGATE.search(value):
        raise TextError(f"{place}: half a surrogate pair (\\ud800 to \\udfff) in {field}; mend it")
    return value
