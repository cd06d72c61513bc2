"""The most surprising passages of a stream, found as it goes by: stretches of 32 tokens, or whole lines."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from sinkctl.result.stream import Passage

TOKENS, STRIDE, KEPT = 32, 16, 10
LONGEST = 2048  # tokens of a line; a longer one is taken in parts
SHORT = 8  # a line with fewer tokens counts as if it had so many, the others of loss 0: one odd token is no odd line
WARM = 64  # the first tokens of a stream have too little before them to be told by
SHADED = 512  # tokens of a passage whose losses are kept

By = Literal["tokens", "line"]


class Passages:
    """Keeps the `top` passages with the highest mean loss; of stretches, none that overlaps a better one."""

    def __init__(self, by: By = "tokens", top: int = KEPT, warm: int = 0, state: dict[str, Any] | None = None):
        self.by, self.top, self.warm = by, top, warm
        self._first = 0  # stream index of the first pending token
        self._pending = np.zeros((5, 0))  # loss, id, byte, line, file
        self.found: list[dict[str, Any]] = []  # best first
        if state is not None:
            self._first, self.found = state["first"], state["found"]
            self._pending = np.array(state["pending"], float).reshape(5, -1)

    def to_json(self) -> dict[str, Any]:
        return {"first": self._first, "found": self.found, "pending": self._pending.tolist()}

    def add(self, nll: np.ndarray, ids: np.ndarray, byte_offsets: np.ndarray, lines: np.ndarray, files: np.ndarray):
        """Take the next tokens; passages with one not scored are passed over. Places are exact in float64 to 2^53."""
        rows = np.stack([nll, ids, byte_offsets, lines, files]).astype(np.float64)
        self._pending = np.concatenate([self._pending, rows], axis=1)
        self._take(*(self._lines(whole=False) if self.by == "line" else self._stretches()))

    def cut(self) -> None:
        """Nothing reaches from here to what comes next."""
        if self.by == "line":
            self._take(*self._lines(whole=True))
        self._first += self._pending.shape[1]
        self._pending = self._pending[:, :0]

    def ended(self) -> list[dict[str, Any]]:
        """What was found, the line under way counted as whole."""
        rest = Passages(self.by, self.top, self.warm, self.to_json())
        rest.cut()
        return rest.found

    def join(self, found: list[dict[str, Any]], first: int, files: int) -> None:
        """Take what was found in the tokens from `first` on, whose files are counted from `files`."""
        moved = [{**p, "index": p["index"] + first, "file": p["file"] + files} for p in found]
        self.found = sorted([*self.found, *moved], key=lambda p: -p["nll"])[: self.top]

    def _stretches(self) -> tuple[np.ndarray, np.ndarray]:
        starts = np.arange(0, self._pending.shape[1] - TOKENS + 1, STRIDE)
        return starts, starts + TOKENS

    def _lines(self, whole: bool) -> tuple[np.ndarray, np.ndarray]:
        """Where lines begin and end; the last one only if it is `whole`, or so long that a part of it is taken."""
        _, _, _, line, file = self._pending
        breaks = np.flatnonzero((np.diff(line) != 0) | (np.diff(file) != 0)) + 1
        ends = [*breaks.tolist(), len(line)] if len(line) else []
        cuts = [0]
        for end in ends:
            cuts += range(cuts[-1] + LONGEST, end, LONGEST)
            cuts += [end] if whole or end < len(line) else []
        return np.array(cuts[:-1], int), np.array(cuts[1:], int)

    def _take(self, starts: np.ndarray, ends: np.ndarray) -> None:
        if not len(starts):
            return
        losses = self._pending[0]
        if self.by == "line":  # one after the other
            sums = np.add.reduceat(losses[: ends[-1]], starts)
        else:
            sums = losses[starts[:, None] + np.arange(TOKENS)].sum(1)
        means = sums / np.maximum(ends - starts, SHORT)
        floor = self.found[-1]["nll"] if len(self.found) == self.top else -np.inf
        for i in np.flatnonzero((means > floor) & (self._first + starts >= self.warm)):
            self._offer(int(starts[i]), int(ends[i]), float(means[i]))
        done = int(ends[-1]) if self.by == "line" else int(starts[-1]) + STRIDE
        self._first += done
        self._pending = self._pending[:, done:].copy()

    def _offer(self, start: int, end: int, nll: float) -> None:
        window = self._pending[:, start:end]
        index = self._first + start
        overlapping = [p for p in self.found if p["index"] < index + end - start and index < p["index"] + p["tokens"]]
        if window[4, 0] != window[4, -1] or any(p["nll"] >= nll for p in overlapping):
            return
        passage = {
            "index": index,
            "tokens": end - start,
            "nll": nll,
            "file": int(window[4, 0]),
            "byte": int(window[2, 0]),
            "line": int(window[3, 0]),
            "ids": window[1].astype(int).tolist(),
            "losses": [round(loss, 3) for loss in window[0].tolist()],
        }
        kept = [p for p in self.found if p not in overlapping]
        self.found = sorted([*kept, passage], key=lambda p: -p["nll"])[: self.top]


def said(found: Sequence[dict[str, Any]], decode: Callable[[list[int]], str], names: Sequence[str]) -> list[Passage]:
    """What was found with its text, token by token, and the name of its file."""
    passages = []
    for passage in found:
        ids, losses = passage["ids"], passage["losses"]
        pieces, before = [], ""
        for place, loss in enumerate(losses[:SHADED], 1):
            after = decode(ids[:place])
            pieces.append((after[len(before) :], loss))
            before = after
        rest = {name: value for name, value in passage.items() if name not in ("ids", "losses", "file")}
        token, highest = max(pieces, key=lambda piece: piece[1])
        passages.append(
            Passage(
                **rest, file=names[passage["file"]], text=decode(ids), pieces=pieces, token=token, token_nll=highest
            )
        )
    return passages
