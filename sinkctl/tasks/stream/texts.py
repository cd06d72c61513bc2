"""Texts on their own: every file, or every record, begins with an empty cache; short ones go side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sinkctl.recipe.schema import StreamRecipe
from sinkctl.tasks.stream.feed import Block, Feed
from sinkctl.text import RecordDecoder, Source, TextPosition, TokenBlock, TokenStream, holds_records
from sinkctl.text.records import Record
from sinkctl.text.source import is_pipe
from sinkctl.text.tokens import Prepared

# Short texts are sorted by length, so that little of a forward pass is padding: so many passes' worth of them at once.
SORTED = 4
# A row has costs of its own (logits, recurrent states), as if it had so many tokens at least.
LEAST = 32


@dataclass(frozen=True)
class Piece:
    """What is scored before a state can be kept: a block of a text, or whole texts of one block each."""

    blocks: list[Block]
    begins: bool  # a text begins with each of them
    whole: bool  # and ends with it
    after: dict[str, Any]  # what goes on from here starts with this


@dataclass(frozen=True)
class _Text:
    blocks: Iterator[Block]
    begins: bool  # False: some of it was scored before
    place: dict[str, Any]  # of its beginning, as a marker
    following: dict[str, Any]  # the marker of what comes behind it


class Separate:
    """The texts of some files as pieces: each file, or with `text.each` of "record" each record of a .jsonl file.

    A text of up to `fits` tokens is not cut, and goes beside others. Raises what `TokenStream` does.
    """

    def __init__(
        self, files: Sequence[str], tokenizer: Prepared, recipe: StreamRecipe, bos_id: int | None, fits: int,
        marker: dict[str, Any] | None,
    ):  # fmt: skip
        self._files, self._tokenizer, self._bos_id, self._fits = files, tokenizer, bos_id, fits
        self._text, self._size, self._limit = recipe.text, recipe.chunk, recipe.limit
        self._alone = recipe.rows == 1
        self._marker = marker or {"file": 0, "record": None, "inside": None}
        self._sizes = [0 if is_pipe(name) else Path(name).stat().st_size for name in files]
        self.file = self._marker["file"]  # that is read
        self._read = 0  # bytes on disk, of files before the one that is read
        self._reading: TokenStream | Source | None = None

    @property
    def bytes_read(self) -> float:
        """Bytes on disk that are read by now."""
        if isinstance(self._reading, Source):
            return self._read + self._reading.bytes_taken()
        whole = self._sizes[self.file] if self._reading is not None else 0
        return self._read + whole * ((self._reading and self._reading.share_read) or 0.0)

    def __iter__(self) -> Iterator[Piece]:
        waiting: list[tuple[Block, _Text]] = []
        for text in self._texts():
            first, second = next(text.blocks, None), next(text.blocks, None)
            if first is None:
                continue
            if second is None and text.begins and len(first.ids) <= self._fits:
                waiting.append((first, text))
                held = sum(len(block.ids) for block, _ in waiting)
                if self._alone or held >= SORTED * self._size:
                    yield _together(waiting)
                    waiting = []
                continue
            if waiting:
                yield _together(waiting)
                waiting = []
            yield from _one_by_one(first, second, text)
        if waiting:
            yield _together(waiting)

    def _texts(self) -> Iterator[_Text]:
        for number in range(self._marker["file"], len(self._files)):
            self.file, self._read = number, sum(self._sizes[:number])
            going_on = self._marker if number == self._marker["file"] else None
            if self._text.each == "record" and holds_records(self._files[number], self._text.field):
                yield from self._records(number, going_on)
                continue
            inside = going_on and going_on["inside"]
            start = inside and TextPosition.model_validate(inside["position"])
            self._reading = TokenStream(
                self._files[number : number + 1], self._tokenizer, field=self._text.field, errors=self._text.errors,
                start=start or None,
            )  # fmt: skip
            yield self._fed(self._reading, number, None, inside, {"file": number + 1, "record": None, "inside": None})
        self._reading, self._read = None, sum(self._sizes)

    def _records(self, number: int, going_on: dict[str, Any] | None) -> Iterator[_Text]:
        name = self._files[number]
        before = Record(*going_on["record"]) if going_on and going_on["record"] else None
        inside = going_on and going_on["inside"]
        self._reading = source = Source(name)
        try:
            decoder = RecordDecoder(name, self._text.field or "text", self._text.errors)
            for record in decoder.records(source, before):
                ids, _ = next(self._tokenizer.encode([record.text], False))
                places = (np.full_like(ids, record.byte), np.full_like(ids, record.line))
                block = TokenBlock(ids, *places, 0, TextPosition(byte=record.byte, line=record.line))
                done = record._replace(text="")
                yield self._fed([block], number, before, inside, {"file": number, "record": done, "inside": None})
                before, inside = done, None
        finally:
            source.close()
            self._reading = None

    def _fed(
        self, stream: Any, number: int, before: Record | None, inside: dict[str, Any] | None, following: dict[str, Any]
    ) -> _Text:
        feed = Feed(stream, self._size, self._bos_id, False, self._limit, inside)
        blocks = (replace(block, files=np.full_like(block.files, number)) for block in feed)
        return _Text(blocks, inside is None, {"file": number, "record": before}, following)


def side_by_side(lengths: Sequence[int], tokens: int, rows: int | None) -> list[list[int]]:
    """Which of some texts share a forward pass of up to so many tokens, padding included: alike ones, longest first."""
    order = sorted(range(len(lengths)), key=lambda text: -lengths[text])
    found: list[list[int]] = []
    for text in order:
        group = found[-1] if found else []
        room = bool(group) and (len(group) + 1) * max(LEAST, lengths[group[0]]) <= tokens and len(group) != rows
        found = found if room else [*found, []]
        found[-1].append(text)
    return found


def _together(waiting: list[tuple[Block, _Text]]) -> Piece:
    return Piece([block for block, _ in waiting], True, True, waiting[-1][1].following)


def _one_by_one(block: Block, coming: Block | None, text: _Text) -> Iterator[Piece]:
    begins = text.begins
    while block is not None:
        after = text.following if coming is None else {**text.place, "inside": block.after}
        yield Piece([block], begins, False, after)
        begins, block, coming = False, coming, next(text.blocks, None)
