"""How long a run takes: its work, counted in tokens of a plain forward pass, and how fast a model takes those."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sinkctl.metrics.observe import run
from sinkctl.metrics.samples import laid_out
from sinkctl.model.load import LoadedModel

PROBE = 128  # tokens
# What a token costs beside one of a plain forward pass without head, roughly: of a sample measured in full; streamed,
# head and long past included.
INPUT, STREAMED = 1.6, 1.6


@dataclass
class Pace:
    """Work done and ahead of one checkpoint."""

    ahead: float  # tokens
    seconds_a_token: float | None  # of the probe
    done: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def do(self, tokens: float) -> None:
        self.done += tokens

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, time goes by in which none of the work is done."""
        before = time.monotonic()
        try:
            yield
        finally:
            self.began += time.monotonic() - before

    @property
    def share(self) -> float:
        return min(1.0, self.done / max(self.ahead, self.done, 1.0))

    @property
    def seconds_left(self) -> float | None:
        """By the probe before anything is done, then by how it went."""
        left = max(0.0, self.ahead - self.done)
        if self.done <= 0.02 * self.ahead:
            return None if self.seconds_a_token is None else left * self.seconds_a_token
        return left * (time.monotonic() - self.began) / self.done


def probed(loaded: LoadedModel, rows: Sequence[Tensor]) -> float | None:
    """Seconds a token of a plain forward pass over samples like these; None where it fails."""
    length = min(PROBE, *map(len, rows))
    rows = [row[:length] for row in rows[: max(1, PROBE // length)]]
    samples = laid_out(rows, loaded.device)
    seconds = []
    for _ in range(2):  # the first one warms up
        began = time.monotonic()
        try:
            run(loaded.model, samples)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # measuring it says what is wrong
            return None
        if loaded.device.type == "cuda":
            torch.cuda.synchronize(loaded.device)
        seconds.append(time.monotonic() - began)
    return min(seconds) / (len(rows) * length)
