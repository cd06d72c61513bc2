"""What is kept of millions of per-token losses: sums, a curve, and a thinned list of places; all in bounded memory."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sinkctl.result.stream import CurvePoint

BINS = 512


@dataclass
class Total:
    """Sum and count of scored losses, in float64."""

    nll: float = 0.0
    tokens: int = 0

    def add(self, nll: np.ndarray) -> None:
        scored = nll[np.isfinite(nll)]
        self.join(float(scored.sum(dtype=np.float64)), len(scored))

    def join(self, nll: float, tokens: int) -> None:
        """Add another sum and count."""
        self.nll, self.tokens = self.nll + nll, self.tokens + tokens

    @property
    def perplexity(self) -> float | None:
        """exp of the mean loss; None before the first token."""
        return float(np.exp(self.nll / self.tokens)) if self.tokens else None


@dataclass
class Curve:
    """Mean loss against position, in at most 512 bins: when the text outgrows them, neighbours join."""

    width: int = 16
    end: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, first: int, nll: np.ndarray) -> None:
        """Add the losses of the positions from `first` on; NaN is not scored."""
        self.end = max(self.end, first + len(nll))
        while self.end > BINS * self.width:
            self._widen()
        scored = np.isfinite(nll)
        bins = (first + np.flatnonzero(scored)) // self.width
        self.sums += np.bincount(bins, nll[scored].astype(np.float64), BINS)
        self.counts += np.bincount(bins, minlength=BINS)

    def join(self, other: "Curve") -> None:
        """Add the losses of another curve, position by position."""
        while self.width < other.width:
            self._widen()
        while other.width < self.width:
            other._widen()
        self.end = max(self.end, other.end)
        self.sums, self.counts = self.sums + other.sums, self.counts + other.counts

    def _widen(self) -> None:
        self.width *= 2
        for name in ("sums", "counts"):
            pairs = getattr(self, name).reshape(-1, 2).sum(1)
            setattr(self, name, np.concatenate([pairs, np.zeros_like(pairs)]))

    def points(self) -> list[CurvePoint]:
        return [
            CurvePoint(
                first=i * self.width,
                end=min((i + 1) * self.width, self.end),
                nll=self.sums[i] / self.counts[i],
                tokens=self.counts[i],
            )
            for i in np.flatnonzero(self.counts)
        ]

    def to_json(self) -> dict[str, Any]:
        return {"width": self.width, "end": self.end, "sums": self.sums.tolist(), "counts": self.counts.tolist()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Curve":
        return cls(data["width"], data["end"], np.array(data["sums"]), np.array(data["counts"], np.int64))


@dataclass
class Thinned:
    """A list that stays short: every `stride`-th item is kept, and the stride doubles when 512 are held."""

    items: list[Any] = field(default_factory=list)
    offered: int = 0
    stride: int = 1

    def offer(self, item: Any) -> None:
        if self.offered % self.stride == 0:
            self.items.append(item)
            if len(self.items) > BINS:
                self.items, self.stride = self.items[::2], self.stride * 2
        self.offered += 1
