"""Every line of a stream, or record, with its place and its losses: lines.csv and lines.jsonl of a run folder."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sinkctl.result.rows import write_rows
from sinkctl.tasks.stream.passages import LONGEST, SHORT
from sinkctl.tasks.stream.scoring import StreamRun

HEAD = ("file", "line", "byte", "index", "tokens", "surprise")
PLACES = 4  # int64 a token: id, byte, line, file
WINDOW = 1 << 18  # tokens looked at in one go


class Stretch(NamedTuple):
    """Consecutive tokens of a run: the losses under each policy, and their `PLACES`."""

    first: int  # index of the first token
    nll_PN: Sequence[np.ndarray]
    places_N4: np.ndarray
    names: Sequence[str]  # of the files


def write_lines(folder: Path, run: StreamRun, stretches: Iterable[Stretch]) -> None:
    """Write lines.csv, lines.jsonl, or both, as the recipe says, each in one step.

    A line has the tokens that begin in it, and is taken in parts of 2,048. `surprise` is what passages are ranked by:
    the mean loss under the first policy, of a line of fewer than 8 tokens over 8; none for the first tokens of a text.
    Losses are nats; null, in CSV empty, where a token was not scored.
    """
    labels, tokenizer = list(run.scorers), run.loaded.tokenizer
    head = [*HEAD, *(f"nll {label}" for label in labels), "text"]
    rows = (row for stretch in stretches for row in _rows(stretch, labels, tokenizer.decode, run.tally.passages.warm))
    write_rows(folder, "lines", run.recipe.passages.save_as, head, ((row, _cells(row)) for row in rows))


def _cells(row: dict[str, Any]) -> list[Any]:
    return [*(row[name] for name in HEAD), *row["nll"].values(), row["text"].rstrip("\r\n")]


def _rows(
    stretch: Stretch, labels: Sequence[str], decode: Callable[[list[int]], str], warm: int
) -> Iterator[dict[str, Any]]:
    for start, end in _bounds(stretch.places_N4):
        ids, bytes_, lines, files = stretch.places_N4[start:end].T
        losses = {label: nll[start:end].astype(float) for label, nll in zip(labels, stretch.nll_PN, strict=True)}
        index, first = stretch.first + start, losses[labels[0]]
        yield {
            "file": stretch.names[files[0]],
            "line": int(lines[0]),
            "byte": int(bytes_[0]),
            "index": index,
            "tokens": end - start,
            "surprise": _known(first.sum() / max(end - start, SHORT)) if index >= warm else None,
            "nll": {label: _known(each.mean()) for label, each in losses.items()},
            "losses": {label: [_known(loss) for loss in each.tolist()] for label, each in losses.items()},
            "text": decode(ids.tolist()),
        }  # fmt: skip


def _known(loss: float) -> float | None:
    return round(float(loss), 4) if np.isfinite(loss) else None


def _bounds(places_N4: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where lines begin and end."""
    start, count = 0, len(places_N4)
    for begin in range(0, count, WINDOW):
        line_file = places_N4[max(begin - 1, 0) : begin + WINDOW, 2:]
        breaks = np.flatnonzero((np.diff(line_file, axis=0) != 0).any(1)) + max(begin - 1, 0) + 1
        for end in (*breaks.tolist(), *([count] if begin + WINDOW >= count else [])):
            yield from ((at, min(at + LONGEST, end)) for at in range(start, end, LONGEST))
            start = end
