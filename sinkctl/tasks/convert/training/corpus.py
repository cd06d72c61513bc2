"""The documents that a model is trained on, as token ids."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sinkctl.errors import Interrupted, TextError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.base import TextFiles
from sinkctl.text import RecordDecoder, Source, SpecialTokens, TokenStream, holds_records
from sinkctl.text.records import JOIN
from sinkctl.text.source import check, is_pipe

BLOCK = 1 << 20  # bytes of records, or ids of an array, taken at once
NONE = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents, one after the other."""

    tokens: NDArray[np.integer]  # [N], no special tokens among them
    starts: NDArray[np.int64]  # where in it each document begins, ascending; the first is 0
    name: str  # in words
    notes: tuple[str, ...] = ()  # on special tokens that texts spell

    def first(self, count: int | None) -> "Corpus":
        """Its first `count` tokens; None, or more than there are: all."""
        if count is None or count >= len(self.tokens):
            return self
        name = f"{self.name} (its first {count:,} tokens)"
        return replace(self, tokens=self.tokens[:count], starts=self.starts[self.starts < count], name=name)


def of_files(
    settings: TextFiles, loaded: LoadedModel, bos_id: int | None,
    progress: Callable[[float], None] = lambda share: None, stop: Callable[[], bool] = lambda: False,
    most: int | None = None,
) -> Corpus:  # fmt: skip
    """Each file a document, of a .jsonl file each record; a token `bos_id` among the ids ends one, and is taken out.

    Reading ends beyond `most` tokens. A .npy file holds token ids in one dimension. Without `settings.files`,
    TextError; so for what cannot be read and for ids that the model has no embeddings of. UsageError for a field
    without .jsonl files, Interrupted for `stop`.
    """
    check(settings.files)
    if settings.field is not None and not any(holds_records(name, settings.field) for name in settings.files):
        raise UsageError(f"field {settings.field}: none of the texts to train on is a .jsonl file")
    found, special = _Collected(loaded, bos_id), SpecialTokens(loaded.tokenizer, loaded.rows, None)
    last = None
    for name, block in _blocks(settings, loaded.tokenizer):
        if stop():
            raise Interrupted("stopped")
        if block.file != last:
            found.begin(name)
            last = block.file
        if not _holds_ids(name):
            special.add(block.ids, None, name)
        found.add(block)
        if most is not None and len(found) > most:
            break
        progress(block.share)
    corpus = found.corpus(", ".join(settings.files))
    return replace(corpus, name=", ".join(Path(name).name for name in settings.files), notes=tuple(special.notes()))


def of_tokens(ids: Tensor, name: str) -> Corpus:
    """One document."""
    return Corpus(ids.cpu().numpy(), np.zeros(1, np.int64), name)


def check_room(corpus: Corpus, length: int) -> None:
    """TextError where the corpus holds no sequence of `length` tokens and the one to predict after it."""
    if len(corpus.tokens) < length + 1:
        raise TextError(
            f"{corpus.name}: {len(corpus.tokens):,} tokens, and a sequence takes {length:,} and one to predict; give a "
            "longer text or a smaller --length"
        )


class _Block(NamedTuple):
    ids: NDArray[np.integer]
    begins: NDArray[np.int64]  # where in it documents begin, the beginning of the file aside
    share: float  # of the files it was read from, by now
    file: int = 0  # which of them it is of


class _Collected:
    """What was read so far, in as few bytes a token as the vocabulary allows."""

    def __init__(self, loaded: LoadedModel, bos_id: int | None) -> None:
        self._model, self._rows = loaded.name, loaded.rows
        self._bos_id = -1 if bos_id is None else bos_id
        self._dtype = np.dtype(np.uint16 if self._rows <= 1 << 16 else np.int32)
        self._held = bytearray()  # grows in place, so that nothing is held twice
        self._starts: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        return len(self._held) // self._dtype.itemsize

    def begin(self, file: str) -> None:
        self._file, self._read = file, 0
        self._starts.append(np.array([len(self)], np.int64))

    def add(self, block: _Block) -> None:
        outside = (block.ids < 0) | (block.ids >= self._rows)
        if outside.any():
            place = int(outside.argmax())
            raise TextError(
                f"{self._file}: id {block.ids[place]} at place {self._read + place:,} (the first is 0), and "
                f"{self._model} has {self._rows:,} embeddings; give ids of its own tokenizer"
            )
        separators = np.flatnonzero(block.ids == self._bos_id)
        begins = np.concatenate([block.begins, separators + 1])
        self._starts.append(len(self) + begins - np.searchsorted(separators, begins))
        self._held += memoryview(np.delete(block.ids, separators).astype(self._dtype)).cast("B")
        self._read += len(block.ids)

    def corpus(self, name: str) -> Corpus:
        """TextError where there is no token. Documents without any are left out."""
        if not self._held:
            raise TextError(f"{name}: no text in it, so there is nothing to train on; give another")
        starts = np.unique(np.concatenate(self._starts))
        return Corpus(np.frombuffer(self._held, self._dtype), starts[starts < len(self)], name)


def _blocks(settings: TextFiles, tokenizer: Any) -> Iterator[tuple[str, _Block]]:
    """Blocks of all files, each with its file's name; texts one after the other are one stream, tokenized at once."""
    files = settings.files
    before = [0, *accumulate(0 if is_pipe(name) else Path(name).stat().st_size for name in files)]  # bytes of those

    def alone(index: int) -> int | None:
        name = files[index]
        return index if _holds_ids(name) or holds_records(name, settings.field) or is_pipe(name) else None

    for _, group in groupby(range(len(files)), alone):
        first, *more = group
        names = files[first : first + 1 + len(more)]
        if _holds_ids(names[0]):
            blocks = _of_array(names[0])
        elif holds_records(names[0], settings.field):
            blocks = _of_records(names[0], settings, tokenizer)
        else:
            blocks = _of_texts(names, settings, tokenizer)
        for block in blocks:
            read = before[first] + block.share * (before[first + len(names)] - before[first])
            yield names[block.file], block._replace(share=read / max(1, before[-1]), file=first + block.file)


def _holds_ids(name: str) -> bool:
    return Path(name).suffix.lower() == ".npy"


def _of_texts(names: Sequence[str], settings: TextFiles, tokenizer: Any) -> Iterator[_Block]:
    stream = TokenStream(names, tokenizer, errors=settings.errors, places=False)
    for block in stream:
        yield _Block(block.ids, NONE, stream.share_read or 0.0, block.file)


def _of_records(name: str, settings: TextFiles, tokenizer: Any) -> Iterator[_Block]:
    """Each record tokenized by itself: no token reaches over the blank lines that join records, which are left out."""
    size = 0 if is_pipe(name) else Path(name).stat().st_size
    decoder, data = RecordDecoder(name, settings.field or "text", settings.errors), Source(name)
    try:
        final = False
        while not final:
            raw = data.read(BLOCK)
            final = len(raw) < BLOCK
            read = decoder.feed(raw, final)
            edges = [0, *(np.flatnonzero(np.diff(read.lines)) + 1), len(read.text)]
            texts = [read.text[begin:end].removeprefix(JOIN) for begin, end in pairwise(edges) if begin < end]
            if not texts:
                continue
            each = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
            ids = np.fromiter(chain.from_iterable(each), np.int64)
            yield _Block(ids, np.cumsum([0, *map(len, each)])[:-1], data.bytes_taken() / max(1, size))
    finally:
        data.close()


def _of_array(name: str) -> Iterator[_Block]:
    try:
        ids = np.lib.format.open_memmap(name, mode="r")  # never unpickles
    except (OSError, ValueError, EOFError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise TextError(f"{name}: cannot be read as .npy ({why}); store token ids with numpy.save") from error
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise TextError(
            f"{name}: {ids.dtype} of shape {ids.shape}, not integers in one dimension; store token ids one after the "
            "other"
        )
    for begin in range(0, len(ids), BLOCK):
        part = np.asarray(ids[begin : begin + BLOCK])
        yield _Block(part, NONE, (begin + len(part)) / len(ids))
