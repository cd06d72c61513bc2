"""Token ids of whole files, a block at a time."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain
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

Encode = Callable[[list[str], bool], Iterator[tuple[np.ndarray, np.ndarray]]]

AT_ONCE = 16  # reads tokenized at once, by all cores: of 64 KB each they take 100 to 200 MB


class Prepared(NamedTuple):
    """A tokenizer made ready for texts, once for many of them; see `prepared`."""

    encode: Encode  # (texts, whether places are asked for) → of each text (its ids, the first character of each)
    cuts: SafeCuts | NoCuts


@dataclass(frozen=True, eq=False)
class TokenBlock:
    """Consecutive tokens of one file; `TokenStream(..., start=block.start)` begins with this block again."""

    ids: np.ndarray  # int64 [n]
    byte_offsets: np.ndarray  # int64 [n], first byte of each token's text in the decompressed file; without places, [0]
    lines: np.ndarray  # int64 [n], 1-based line of that byte; without places, [0]
    file: int
    start: TextPosition


class _Piece(NamedTuple):
    """Text that becomes a block: from its guard to an exact cut."""

    held: Characters
    start: TextPosition
    bytes_read: int  # of all files, when the cut was found
    share_read: float | None


class TokenStream:
    """The ids of `tokenizer(text, add_special_tokens=False)` for each file, in blocks, in bounded memory.

    `files` are paths, or `-` for standard input; .gz, .xz, .bz2 and .zst are decompressed; .jsonl (and standard input
    when `field` is given) holds one object a line, and the text is the records' `field`s joined by blank lines. Files
    are tokenized separately. A read of `block_bytes` decompressed bytes gives at most one block. Blocks are tokenized
    on all cores, by the library's own threads (`TOKENIZERS_PARALLELISM`, `RAYON_NUM_THREADS`): the first alone, more of
    them at once as the text goes on, and those of a pipe alone, as each comes. Without `places`, blocks hold ids alone,
    which takes less time.

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
        places: bool = True,
    ) -> None:
        source.check(files)
        self._files = list(files)
        self._field, self._errors, self._block_bytes, self._places = field, errors, block_bytes, places
        self._start = start or TextPosition()
        if start is not None:
            self._check_start(start)
        self._encode, self._cuts = tokenizer if isinstance(tokenizer, Prepared) else prepared(tokenizer)
        self.bounded, self.bounded_reason = self._cuts.bounded, self._cuts.reason
        self.largest_buffer = 0  # most characters ever held
        self._sizes = [None if source.is_pipe(name) else Path(name).stat().st_size for name in self._files]
        # Bytes on disk before each file, and of all.
        self._before = None if None in self._sizes else [0, *accumulate(self._sizes)]
        plain = all(source.compression(name) is None for name in self._files)
        self.bytes_total = self._before[-1] if plain and self._before else None
        # As the last block was cut, though more is read by now: decompressed bytes, and the share of the input's bytes
        # on disk, which is None when there is a pipe among the files.
        self.bytes_read = self._read_ahead = 0
        self.share_read = self._share(self._start.file, 0)

    def __iter__(self) -> Iterator[TokenBlock]:
        waiting: list[_Piece] = []
        given = room = 0  # bytes read when the last were tokenized, and to be read until the next are
        for piece in self._pieces():
            if isinstance(piece, _Piece):
                waiting.append(piece)
                if self._sizes[piece.start.file] is not None and piece.bytes_read < given + room:
                    continue
                given, room = piece.bytes_read, min(AT_ONCE * self._block_bytes, 2 * room or self._block_bytes)
            yield from self._tokenized(waiting)
            waiting = []
            if isinstance(piece, Exception):
                raise piece
        yield from self._tokenized(waiting)
        self.bytes_read, self.share_read = self._read_ahead, self._share(len(self._files), 0)

    def _tokenized(self, pieces: list[_Piece]) -> Iterator[TokenBlock]:
        """A block of each piece, the tokens of its guard left out."""
        texts = [text for held, start, *_ in pieces for text in (held.text, held.text[: start.guard])]
        encoded = self._encode(texts, self._places)
        for held, start, bytes_read, share_read in pieces:
            self.bytes_read, self.share_read = bytes_read, share_read
            (ids, characters), (guard, _) = next(encoded), next(encoded)
            begin = len(guard) if start.guard else 0
            assert np.array_equal(ids[:begin], guard[:begin]), "a cut was not exact"
            if len(ids) > begin:
                characters = np.minimum(characters[begin:], len(held.text) - 1)
                yield TokenBlock(ids[begin:], held.bytes[characters], held.lines[characters], start.file, start)

    def _pieces(self) -> Iterator[_Piece | Exception | None]:
        """What becomes a block each, the error that ends it; None where what follows may keep one waiting."""
        start = self._start
        before = self._read_ahead = self._before[start.file] if self.bytes_total else 0
        try:
            for file in range(start.file, len(self._files)):
                if self._sizes[file] is None:
                    yield None
                data = Source(self._files[file])
                try:
                    for cut in self._cut(data, start if file == start.file else TextPosition(file=file)):
                        read = before + data.bytes_read, self._share(file, data.bytes_taken())
                        yield cut and _Piece(*cut, *read)
                    before = self._read_ahead = before + data.bytes_read
                finally:
                    data.close()
        except Exception as error:
            yield error

    def _share(self, file: int, taken: int) -> float | None:
        return min(1.0, (self._before[file] + taken) / max(1, self._before[-1])) if self._before else None

    def _cut(self, data: Source, start: TextPosition) -> Iterator[tuple[Characters, TextPosition] | None]:
        """Characters up to each cut, the guard first, and where they start; None where a read gives no cut."""
        buffer = _Buffer(self._decoder(data.name))
        self._replay(data, buffer, start)
        while raw := data.read(self._block_bytes):
            buffer.feed(raw)
            self.largest_buffer = max(self.largest_buffer, buffer.size)
            if len(raw) < self._block_bytes:
                break
            cut = None
            if self.bounded and buffer.has_grown:
                buffer.gather()
                cut = self._cuts.last(buffer.held.text, start.guard)
            if cut is None:
                yield None
            else:
                held = buffer.held.before(cut)
                following = buffer.cut(cut, start.file, data.bytes_read)
                yield held, start
                start = following
        buffer.feed(b"", final=True)
        buffer.gather()
        self.largest_buffer = max(self.largest_buffer, buffer.size)
        if buffer.size > start.guard:
            yield buffer.held, start

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

        def encode_whole(texts: list[str], places: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for text in texts:
                out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
                yield _arrays(out["input_ids"], out["offset_mapping"] if places else [])

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

    def encode(texts: list[str], places: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        batch = copy.encode_batch if places else copy.encode_batch_fast
        try:
            encodings = batch(texts, add_special_tokens=False)
        except Exception:  # by one of them: those before it come first
            encodings = (copy.encode(text, add_special_tokens=False) for text in texts)
        return (_arrays(encoding.ids, encoding.offsets if places else []) for encoding in encodings)

    return Prepared(encode, SafeCuts(Stages(serialized)))


def _arrays(ids: list[int], offsets: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(ids, np.int64), np.fromiter(chain.from_iterable(offsets), np.int64)[::2]
