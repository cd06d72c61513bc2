"""Samples of natural text: equally long pieces spread over files, or one a record of a .jsonl file."""

from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sinkctl.errors import TextError, UsageError
from sinkctl.model.load import DEMO
from sinkctl.recipe.schema import InputSettings
from sinkctl.text import RecordDecoder, Source, TokenStream, holds_records
from sinkctl.text.decode import TextDecoder
from sinkctl.text.source import check

MOST_TOKENS = 2_000_000  # tokenized of all files together, unless the samples need more: seconds, not minutes
MOST_RECORD_BYTES = 64 << 20
BYTES_A_TOKEN = 16  # generous, for where tokens cannot be counted while reading
SHORTEST = 2  # tokens of a record worth a look


def natural(settings: InputSettings, tokenizer: Any, length: int) -> tuple[list[Tensor], str | None]:
    """At most `settings.samples` samples of `length` token ids (records may be shorter), and a note on them.

    Raises TextError for files that cannot be read or are too short, UsageError for a field without .jsonl files.
    """
    files = settings.files or (str(DEMO / "text.txt"),)
    check(files)
    records = [holds_records(name, settings.field) for name in files]
    if settings.field is not None and not any(records):
        raise UsageError(f"--field {settings.field}: none of the texts is a .jsonl file")
    most = max(MOST_TOKENS // len(files), settings.samples * length)
    places: list[tuple[np.ndarray | str, int]] = []  # a tokenized file and a sample's start, or a record's text
    notes, longest = [], 0
    for name, of_records in zip(files, records, strict=True):
        if of_records:
            places += [(text, 0) for text in _records(name, settings)]
            continue
        ids, whole = _ids(name, tokenizer, settings, most)
        longest = max(longest, len(ids))
        places += [(ids, start) for start in range(0, len(ids) - length + 1, length)]
        if not whole:
            notes.append(f"{name}: samples of its first {len(ids):,} tokens")
    count = min(settings.samples, len(places))
    chosen = [places[number * len(places) // count] for number in range(count)]
    samples = [torch.from_numpy(_cut(tokenizer, text, start, length)) for text, start in chosen]
    samples = [ids for ids in samples if len(ids) >= SHORTEST]
    if not samples:
        tokens = f"{longest:,} token{'' if longest == 1 else 's'}"
        holds = "only empty records" if any(records) else f"{tokens}, and a sample takes {length:,}"
        what = ", ".join(settings.files) or "the built-in text"
        raise TextError(f"{what}: holds {holds}; give a longer text, or a smaller --length")
    if len(samples) < settings.samples:
        what = "records of two tokens or more" if all(records) else f"samples of {length} tokens"
        what = what if len(samples) > 1 else what.replace("samples", "sample").replace("records", "record")
        notes.append(f"the text holds only {len(samples)} {what}")
    return samples, "; ".join(notes) or None


def _records(name: str, settings: InputSettings) -> list[str]:
    with closing(Source(name)) as data:
        read = data.read(MOST_RECORD_BYTES)
    if len(read) == MOST_RECORD_BYTES:
        read = read[: read.rfind(b"\n") + 1]
    decoder = RecordDecoder(name, settings.field or "text", settings.errors)
    return [text for text in decoder.each(read) if text.strip()]


def _ids(name: str, tokenizer: Any, settings: InputSettings, most: int) -> tuple[np.ndarray, bool]:
    """Token ids of a file, `most` or a block more, and whether that is all of it."""
    fast = getattr(tokenizer, "is_fast", False)
    stream = TokenStream([name], tokenizer, errors=settings.errors, places=False) if fast else None
    if stream is None or not stream.bounded:  # it would read all of the file at once, or not at all
        return _first_ids(name, tokenizer, settings)
    blocks, held = [np.empty(0, np.int64)], 0
    for block in stream:
        if held >= most:
            return np.concatenate(blocks), False
        blocks.append(block.ids)
        held += len(block.ids)
    return np.concatenate(blocks), True


def _first_ids(name: str, tokenizer: Any, settings: InputSettings) -> tuple[np.ndarray, bool]:
    size = BYTES_A_TOKEN * settings.samples * settings.length
    with closing(Source(name)) as data:
        read = data.read(size)
    whole = len(read) < size
    return _tokenized(tokenizer, TextDecoder(name, settings.errors).feed(read, final=whole).text), whole


def _cut(tokenizer: Any, text: np.ndarray | str, start: int, length: int) -> np.ndarray:
    ids = _tokenized(tokenizer, text) if isinstance(text, str) else text
    return ids[start : start + length].copy()


def _tokenized(tokenizer: Any, text: str) -> np.ndarray:
    return np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int64)
