"""What a training run resumes from: whole states, one after the other, of which the last one counts."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sinkctl.clock import carry, spent
from sinkctl.errors import ModelError, ResumeError
from sinkctl.result.convert import Probe
from sinkctl.result.defaults import USED
from sinkctl.result.store import CHECKPOINT, STATE, RunFolder, resumable


@dataclass
class Course:
    """One checkpoint's training so far."""

    step: int = 0
    loss: list[float] = field(default_factory=list)
    objective: list[float] = field(default_factory=list)
    gradient: list[float] = field(default_factory=list)
    seconds: float = 0.0
    probes: list[dict[str, Any]] = field(default_factory=list)
    attention: str = ""

    def probed(self) -> list[Probe]:
        return [Probe(**probe) for probe in self.probes]


class States:
    """States on disk, in the run folder; `main` says whether this process writes what is not each process's own.

    `made_of` says what the run depends on; ResumeError where the states in `folder` come from anything else.
    """

    def __init__(self, folder: RunFolder, made_of: dict[str, Any], main: bool, wait: Callable[[], None]):
        self._folder, self._made_of, self._main, self._wait = folder, made_of, main, wait
        self._kept: dict[str, dict[str, Any]] = {}  # by checkpoint: where its state is, and its course
        if resumable(folder.path):
            before = folder.load_json(f"{STATE}/{CHECKPOINT}")
            changed = _changed(before["made_of"], made_of)
            if changed is not None:
                raise ResumeError(
                    f"{folder.path}: {changed} is not what the training was started with; start a new run"
                )
            self._kept = before["runs"]
            carry(before.get("spent", 0.0))

    def course(self, label: str) -> Course:
        """Where the training of a checkpoint stands."""
        return Course(**self._kept[label]["course"]) if label in self._kept else Course()

    def place(self, label: str) -> Path | None:
        """Where its state is; None before the first."""
        return self._folder.path / STATE / self._kept[label]["folder"] if label in self._kept else None

    def begin(self) -> None:
        """From now on the folder can be resumed."""
        if self._main and not self._kept:
            (self._folder.path / STATE).mkdir(exist_ok=True)
            self._point()

    def save(self, label: str, course: Course, write: Callable[[str], None]) -> None:
        """Write a state beside the last one, then make it the one that counts. ModelError where the disk is full."""
        name = f"{label}-{course.step}"
        target = self._folder.path / STATE / name
        if self._main:
            shutil.rmtree(target, ignore_errors=True)
        self._wait()
        try:
            with _quietly():
                write(str(target))
            self._wait()
            before = self.place(label)
            self._kept[label] = {"folder": name, "course": asdict(course)}
            if self._main:
                self._point()
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk is a RuntimeError to torch.save
            shutil.rmtree(target, ignore_errors=True)
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
            raise ModelError(
                f"{target}: cannot be written ({said}); the state before is kept, so make room and go on with "
                f"--resume {self._folder.path}"
            ) from error
        if self._main and before is not None and before != target:
            shutil.rmtree(before, ignore_errors=True)

    def _point(self) -> None:
        kept = {"made_of": self._made_of, "runs": self._kept, "settings": dict(USED), "spent": spent()}
        self._folder.write_json(f"{STATE}/{CHECKPOINT}", kept)


def _changed(before: Any, now: Any) -> str | None:
    """The first thing in which two nested mappings differ, as a dotted key."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return None if before == now else ""
    found = ((key, _changed(before.get(key), now.get(key))) for key in {**now, **before})
    return next((f"{key}.{inner}".rstrip(".") for key, inner in found if inner is not None), None)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without accelerate's word that tied weights are written once."""
    logger = logging.getLogger("accelerate.utils.other")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
