"""Token ids of whole files, a block at a time."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from sinkctl.errors import ResumeError, TextError
from sinkctl.text import source
from sinkctl.text.cuts import GUARD, NoCuts, SafeCuts
from sinkctl.text.decode import NOTHING, Characters, Errors, TextDecoder
from sinkctl.text.position import TextPosition
from sinkctl.text.records import RecordDecoder
from sinkctl.text.source import Source
from sinkctl.text.stages import Stages

Encode = Callable[[str], tuple[np.ndarray, np.ndarray]]


class Prepared(NamedTuple):
    """A tokenizer made ready for texts, once for many of them; see `prepared`."""

    encode: Encode  # a text → (its ids, the first character of each)
    cuts: SafeCuts | NoCuts


@dataclass(frozen=True, eq=False)
class TokenBlock:
    """Consecutive tokens of one file; `TokenStream(..., start=block.start)` begins with this block again."""

    ids: np.ndarray  # int64 [n]
    byte_offsets: np.ndarray  # int64 [n], first byte of each token's text in the decompressed file
    lines: np.ndarray  # int64 [n], 1-based line of that byte
    file: int
    start: TextPosition


class TokenStream:
    """The ids of `tokenizer(text, add_special_tokens=False)` for each file, in blocks, in bounded memory.

    `files` are paths, or `-` for standard input; .gz, .xz, .bz2 and .zst are decompressed; .jsonl (and standard input
    when `field` is given) holds one object a line, and the text is the records' `field`s joined by blank lines. Files
    are tokenized separately. A read of `block_bytes` decompressed bytes gives at most one block.

    Where no cut of a tokenizer is known to be exact, `bounded` is False, `bounded_reason` says why, and each file
    is read whole and comes as one block. Tokenizers without a fast implementation know no offsets and are refused.
    Raises TextError for input that cannot be read, ResumeError when `start` does not fit it.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        tokenizer: Any,  # of transformers, or `prepared`
        *,
        field: str | None = None,
        errors: Errors = "strict",
        start: TextPosition | None = None,
        block_bytes: int = 1 << 16,
    ) -> None:
        source.check(files)
        self._files = list(files)
        self._field, self._errors, self._block_bytes = field, errors, block_bytes
        self._start = start or TextPosition()
        if start is not None:
            self._check_start(start)
        self._encode, self._cuts = tokenizer if isinstance(tokenizer, Prepared) else prepared(tokenizer)
        self.bounded, self.bounded_reason = self._cuts.bounded, self._cuts.reason
        self.largest_buffer = 0  # most characters ever held
        self._sizes = [None if source.is_pipe(name) else Path(name).stat().st_size for name in self._files]
        plain = all(source.compression(name) is None for name in self._files)
        self.bytes_total = sum(self._sizes) if plain and None not in self._sizes else None
        self._read_before = 0
        self._source: Source | None = None
        self._file = self._start.file

    @property
    def bytes_read(self) -> int:
        """Decompressed bytes read so far."""
        return self._read_before + (self._source.bytes_read if self._source else 0)

    @property
    def share_read(self) -> float | None:
        """Share of the input's bytes on disk read so far; None when there is a pipe among the files."""
        if None in self._sizes:
            return None
        taken = sum(self._sizes[: self._file]) + (self._source.bytes_taken() if self._source else 0)
        return min(1.0, taken / max(1, sum(self._sizes)))

    def __iter__(self) -> Iterator[TokenBlock]:
        start = self._start
        self._read_before = sum(size or 0 for size in self._sizes[: start.file]) if self.bytes_total else 0
        for file in range(start.file, len(self._files)):
            self._file, self._source = file, Source(self._files[file])
            try:
                yield from self._blocks(self._source, start if file == start.file else TextPosition(file=file))
            finally:
                self._read_before += self._source.bytes_read
                self._source.close()
                self._source = None
        self._file = len(self._files)

    def _blocks(self, data: Source, start: TextPosition) -> Iterator[TokenBlock]:
        buffer = _Buffer(self._decoder(data.name))
        self._replay(data, buffer, start)
        while raw := data.read(self._block_bytes):
            buffer.feed(raw)
            self.largest_buffer = max(self.largest_buffer, buffer.size)
            if len(raw) < self._block_bytes:
                break
            if not (self.bounded and buffer.has_grown):
                continue
            buffer.gather()
            cut = self._cuts.last(buffer.held.text, start.guard)
            if cut is None:
                continue
            block = self._block(buffer, cut, start)
            start = buffer.cut(cut, start.file, data.bytes_read)
            if len(block.ids):
                yield block
        buffer.feed(b"", final=True)
        buffer.gather()
        self.largest_buffer = max(self.largest_buffer, buffer.size)
        if buffer.size > start.guard:
            block = self._block(buffer, len(buffer.held.text), start)
            if len(block.ids):
                yield block

    def _replay(self, data: Source, buffer: "_Buffer", start: TextPosition) -> None:
        """Read what the block at `start` had before it, keep the part not yet tokenized, and compare the rest."""
        while data.bytes_read < start.read:
            raw = data.read(min(self._block_bytes, start.read - data.bytes_read))
            if not raw:
                break
            buffer.feed(raw)
            buffer.drop_before(start.char - start.guard)
        if data.bytes_read < start.read or buffer.sha256.hexdigest() != start.sha256:
            raise ResumeError(
                f"{data.name}: changed since the run was started (in its first {start.read} bytes); start a new run"
            )

    def _block(self, buffer: "_Buffer", cut: int, start: TextPosition) -> TokenBlock:
        """The tokens up to `cut`, those of the guard left out."""
        held = buffer.held
        ids, characters = self._encode(held.text[:cut])
        guard, _ = self._encode(held.text[: start.guard]) if start.guard else (ids[:0], characters)
        assert np.array_equal(ids[: len(guard)], guard), "a cut was not exact"
        characters = np.minimum(characters[len(guard) :], cut - 1)
        return TokenBlock(ids[len(guard) :], held.bytes[characters], held.lines[characters], start.file, start)

    def _decoder(self, name: str) -> TextDecoder | RecordDecoder:
        if source.holds_records(name, self._field):
            return RecordDecoder(name, self._field or "text", self._errors)
        return TextDecoder(name, self._errors)

    def _check_start(self, start: TextPosition) -> None:
        if start.file >= len(self._files):
            raise ResumeError(f"the run stopped in text {start.file + 1} of {len(self._files)}; name the same files")
        name = self._files[start.file]
        if source.is_pipe(name):
            raise ResumeError(f"{name}: a pipe cannot be read again, so its run cannot be resumed; start a new run")


class _Buffer:
    """Decoded text not yet tokenized, with a few characters before it, and a hash of everything read."""

    def __init__(self, decoder: TextDecoder | RecordDecoder) -> None:
        self.held: Characters = NOTHING
        self._waiting: list[Characters] = []
        self.size = 0  # characters in both
        self.sha256 = hashlib.sha256()
        self._dropped = 0  # characters of the text before `held`
        self._decoder = decoder

    @property
    def has_grown(self) -> bool:
        """Whether enough came in to look for a cut: a quarter, so that looking stays linear where there is none."""
        return 5 * len(self.held.text) <= 4 * self.size

    def feed(self, data: bytes, final: bool = False) -> None:
        self.sha256.update(data)
        self._waiting.append(self._decoder.feed(data, final))
        self.size += len(self._waiting[-1].text)

    def gather(self) -> None:
        """Join what came in to `held`."""
        self.held = Characters.joined([self.held, *self._waiting])
        self._waiting = []

    def drop_before(self, char: int) -> None:
        self.gather()
        count = min(max(0, char - self._dropped), len(self.held.text))
        self.held = self.held.after(count)
        self.size -= count
        self._dropped += count

    def cut(self, cut: int, file: int, read: int) -> TextPosition:
        """Forget what is tokenized, but for the guard; the position of what follows."""
        guard = min(cut, GUARD)
        position = TextPosition(
            file=file,
            char=self._dropped + cut,
            guard=guard,
            byte=self.held.bytes[cut],
            line=self.held.lines[cut],
            read=read,
            sha256=self.sha256.hexdigest(),
        )
        self.drop_before(position.char - guard)
        return position


def prepared(tokenizer: Any) -> Prepared:
    """What reads texts of any length by this tokenizer; TextError for one without a fast implementation."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise TextError(
            f"{type(tokenizer).__name__} has no fast implementation, so the place of a token in the text is unknown;"
            " use a checkpoint with a tokenizer.json"
        )
    try:
        serialized = backend.to_str()
    except Exception as error:  # the bindings raise no narrower type

        def encode_whole(text: str) -> tuple[np.ndarray, np.ndarray]:
            out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            return _arrays(out["input_ids"], out["offset_mapping"])

        return Prepared(encode_whole, NoCuts(f"a part written in Python cannot be examined ({error})"))
    return _of_json(serialized, bool(getattr(tokenizer, "split_special_tokens", False)))


@lru_cache(1)  # a large vocabulary takes seconds to read, and a corpus may have many files
def _of_json(serialized: str, split_special_tokens: bool) -> Prepared:
    # A copy: the caller's truncation and padding stay, and no post-processor trims spaces off the offsets.
    copy = Tokenizer.from_str(serialized)
    copy.no_truncation()
    copy.no_padding()
    copy.post_processor = None
    copy.encode_special_tokens = split_special_tokens

    def encode(text: str) -> tuple[np.ndarray, np.ndarray]:
        encoding = copy.encode(text, add_special_tokens=False)
        return _arrays(encoding.ids, encoding.offsets)

    return Prepared(encode, SafeCuts(Stages(serialized)))


def _arrays(ids: list[int], offsets: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(ids, np.int64), np.fromiter(chain.from_iterable(offsets), np.int64)[::2]
