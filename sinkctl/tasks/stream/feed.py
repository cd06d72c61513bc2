"""The stream of inputs and targets, cut into blocks of one size, and the marker to restart it from."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sinkctl.errors import ResumeError
from sinkctl.text import TextPosition, TokenBlock, TokenStream


@dataclass(frozen=True)
class Block:
    """Inputs and, for each, the token after it; arrays of one length T. Places are those of the targets."""

    ids: np.ndarray  # int64
    targets: np.ndarray  # int64
    is_text: np.ndarray  # bool: False where the target is an inserted BOS, which is never scored
    byte_offsets: np.ndarray  # int64, in the decompressed file
    lines: np.ndarray  # int64, 1-based
    files: np.ndarray  # int64, index into the recipe's files
    after: dict[str, Any]  # the feed restarted from this continues after the block


@dataclass
class _Segment:
    """Tokens not yet consumed as inputs, one row a quantity: id, is_text, byte, line, file."""

    rows: np.ndarray
    start: TextPosition
    bos: bool  # a BOS stands before the tokens of `start`
    text_before: int  # text tokens of the stream before `start`
    consumed: int = 0

    @property
    def left(self) -> int:
        return self.rows.shape[1] - self.consumed

    def digest(self) -> str:
        """Of the ids consumed so far: what a resumed run must find here again."""
        return hashlib.sha256(np.ascontiguousarray(self.rows[0, : self.consumed]).tobytes()).hexdigest()


class Feed:
    """Text tokens, with BOS where it belongs, as blocks of `size` inputs each (the last may be shorter)."""

    def __init__(
        self, stream: TokenStream, size: int, bos_id: int | None, bos_each_file: bool, limit: int | None,
        marker: dict[str, Any] | None = None,
    ):  # fmt: skip
        self.stream = stream
        self._size, self._bos_id, self._each_file, self._limit = size, bos_id, bos_each_file, limit
        self._marker = marker

    def __iter__(self) -> Iterator[Block]:
        segments: list[_Segment] = []
        held = 0
        for segment in self._segments():
            segments.append(segment)
            held += segment.left
            while held > self._size:
                yield self._block(segments, self._size)
                held -= self._size
        if held > 1:
            yield self._block(segments, held - 1)

    def _segments(self) -> Iterator[_Segment]:
        marker = self._marker or {"skip": 0, "bos": False, "text_before": 0}
        text, first = marker["text_before"], True
        for block in self.stream:
            if self._marker is not None and first:
                bos = marker["bos"]
            else:
                bos = self._bos_id is not None and ((first) or (self._each_file and block.start.char == 0))
            room = len(block.ids) if self._limit is None else min(len(block.ids), self._limit - text)
            segment = _Segment(self._rows(block, room, bos), block.start, bos, text, marker["skip"] if first else 0)
            if first and self._marker is not None and segment.digest() != marker["sha256"]:
                raise ResumeError(
                    "the text changed since the run was started, just before where it stopped; start a new run"
                )
            text, first = text + room, False
            if segment.left > 0:
                yield segment
            if self._limit is not None and text >= self._limit:
                return

    def _rows(self, block: TokenBlock, count: int, bos: bool) -> np.ndarray:
        ids, places = block.ids[:count], (block.byte_offsets[:count], block.lines[:count])
        rows = np.stack([ids, np.ones_like(ids), *places, np.full_like(ids, block.file)])
        if not bos or not count:
            return rows
        front = rows[:, :1].copy()
        front[0], front[1] = self._bos_id, 0
        return np.concatenate([front, rows], axis=1)

    def _block(self, segments: list[_Segment], size: int) -> Block:
        """Consume `size` inputs; one more token is looked at, the last target."""
        rows = np.concatenate([s.rows[:, s.consumed :] for s in segments], axis=1)[:, : size + 1]
        used = size
        while used:
            step = min(used, segments[0].left)
            segments[0].consumed += step
            used -= step
            if not segments[0].left:
                segments.pop(0)
        front = segments[0]
        after = {
            "position": front.start.model_dump(),
            "skip": front.consumed,
            "bos": front.bos,
            "text_before": front.text_before,
            "sha256": front.digest(),
        }
        target = rows[:, 1:]
        return Block(rows[0, :-1], target[0], target[1].astype(bool), target[2], target[3], target[4], after)
