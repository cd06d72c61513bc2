"""What one pass over texts keeps on disk while it runs: its losses as they come, and states to go on from."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch

from sinkctl.errors import within_memory
from sinkctl.model.parallel import tell
from sinkctl.result.store import GrowingArray, RunFolder
from sinkctl.tasks.stream.lines import PLACES
from sinkctl.tasks.stream.scoring import StreamRun

# A checkpoint is written this often, and never takes more than a twentieth of the time.
SAVE_SECONDS, SAVE_SHARE = 2.0, 0.05


def losses_of(folder: Path, number: int) -> Path:
    """Where the losses under a policy are, one float32 a token."""
    return folder / f"nll-{number}.f32"


def texts_of(folder: Path) -> Path:
    """Where the places of texts on their own are, four int64 each."""
    return folder / "texts.i64"


def places_of(folder: Path) -> Path:
    """Where the places of all tokens are, four int64 each, if every line is asked for."""
    return folder / "places.i64"


class Kept:
    """The losses of a run in `folder`; its states too where there is something to go on from."""

    def __init__(self, run: StreamRun, folder: Path, states: RunFolder | None):
        self.run, self._states = run, states if run.resumable else None
        scored, texts = run.tally.scored, run.tally.texts
        self.losses = [GrowingArray(losses_of(folder, number), scored) for number in range(len(run.scorers))]
        separate = run.recipe.text.each is not None
        self.texts = GrowingArray(texts_of(folder), 4 * texts, "<i8") if separate else None
        listed = bool(run.recipe.passages.save_as)
        self.places = GrowingArray(places_of(folder), PLACES * scored, "<i8") if listed else None
        self._saved, self._cost = time.monotonic(), 0.0

    def through(self, seen: Callable[[], None], stop: Callable[[], bool]) -> bool:
        """Run to the end, or where `stop` says so to a state that is saved: whether it is the end."""
        for block in self.run:
            for array, nll in zip(self.losses, block.nll.values(), strict=True):
                array.append(nll)
            if self.texts is not None:
                self.texts.append(block.texts)
            if self.places is not None:
                self.places.append(np.stack([block.ids, block.byte_offsets, block.lines, block.files], axis=1))
            seen()
            stopped = stop()
            due = stopped or time.monotonic() - self._saved > max(SAVE_SECONDS, self._cost / SAVE_SHARE)
            tell((due and self._states is not None, stopped), self.run.loaded.sharers)
            if due:
                self.save()
            if stopped:
                return False
        if not self.run.ended:
            self.save()
        return self.run.ended

    def save(self) -> None:
        """Everything so far, on disk."""
        if self._states is None:
            return
        began = time.monotonic()
        self.sync()
        self._states.save_state(*self.run.state())
        self._saved = time.monotonic()
        self._cost = self._saved - began

    def sync(self) -> None:
        for array in self._arrays:
            array.sync()

    def close(self, remove: bool) -> None:
        """Let the files go; nothing of them is left where nothing goes on from them."""
        for array in self._arrays:
            array.close()
            if remove:
                array.path.unlink(missing_ok=True)

    @property
    def _arrays(self) -> list[GrowingArray]:
        return [*self.losses, *(each for each in (self.texts, self.places) if each is not None)]


def memory_told(chunk: int, device: torch.device) -> AbstractContextManager[None]:
    """ModelError where a block does not fit the device."""
    return within_memory(device, f"a block of {chunk} tokens does not fit; --chunk takes fewer")
