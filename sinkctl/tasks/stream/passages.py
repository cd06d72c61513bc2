"""The most surprising passages of a stream, found as it goes by."""

from collections.abc import Callable
from typing import Any

import numpy as np

TOKENS, STRIDE, KEPT = 32, 16, 10


class Passages:
    """Keeps the windows of 32 tokens (one starts every 16) with the highest mean loss; none overlaps a better one."""

    def __init__(self, decode: Callable[[list[int]], str], state: dict[str, Any] | None = None):
        self._decode = decode
        self._first = 0  # stream index of the first pending token
        self._pending = np.zeros((5, 0))  # loss, id, byte, line, file
        self.found: list[dict[str, Any]] = []  # best first
        if state is not None:
            self._first, self.found = state["first"], state["found"]
            self._pending = np.array(state["pending"], float).reshape(5, -1)

    def to_json(self) -> dict[str, Any]:
        return {"first": self._first, "found": self.found, "pending": self._pending.tolist()}

    def add(self, nll: np.ndarray, ids: np.ndarray, byte_offsets: np.ndarray, lines: np.ndarray, files: np.ndarray):
        """Take the next tokens; windows with one not scored are passed over. Places are exact in float64 to 2^53."""
        rows = np.stack([nll, ids, byte_offsets, lines, files]).astype(np.float64)
        self._pending = np.concatenate([self._pending, rows], axis=1)
        starts = np.arange(0, self._pending.shape[1] - TOKENS + 1, STRIDE)
        if not len(starts):
            return
        means = self._pending[0][starts[:, None] + np.arange(TOKENS)].mean(1)
        floor = self.found[-1]["nll"] if len(self.found) == KEPT else -np.inf
        for i in np.flatnonzero(means > floor):
            self._offer(int(starts[i]), float(means[i]))
        done = int(starts[-1]) + STRIDE
        self._first += done
        self._pending = self._pending[:, done:].copy()

    def cut(self) -> None:
        """No window reaches from here to what comes next."""
        self._first += self._pending.shape[1]
        self._pending = self._pending[:, :0]

    def join(self, found: list[dict[str, Any]], first: int, files: int) -> None:
        """Take what was found in the tokens from `first` on, whose files are counted from `files`."""
        moved = [{**p, "index": p["index"] + first, "file": p["file"] + files} for p in found]
        self.found = sorted([*self.found, *moved], key=lambda p: -p["nll"])[:KEPT]

    def _offer(self, start: int, nll: float) -> None:
        window = self._pending[:, start : start + TOKENS]
        index = self._first + start
        overlapping = [p for p in self.found if abs(p["index"] - index) < TOKENS]
        if window[4, 0] != window[4, -1] or any(p["nll"] >= nll for p in overlapping):
            return
        passage = {
            "index": index,
            "tokens": TOKENS,
            "nll": nll,
            "file": int(window[4, 0]),
            "byte": int(window[2, 0]),
            "line": int(window[3, 0]),
            "text": self._decode(window[1].astype(int).tolist()),
        }
        kept = [p for p in self.found if p not in overlapping]
        self.found = sorted([*kept, passage], key=lambda p: -p["nll"])[:KEPT]
