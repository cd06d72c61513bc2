"""The processes of a run over many texts: what they agree on at the start, and what each says of itself meanwhile.

Scoring needs no collective: torch.distributed carries what the first process settles to the others, and files in the
run folder, one a process, say how far each is, and whether it is still there.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from sinkctl import launched
from sinkctl.clock import spent
from sinkctl.errors import SinkctlError, UsageError

PATIENCE = timedelta(hours=6)  # the first process may have heads to calibrate before it can say anything
# Seconds between two signs of a process, at least and at most; and without one, until it is dead on another machine.
SOON, BEAT, SILENT = 1.0, 5.0, 120.0


class Crew:
    """The processes, as a launcher started them; one alone is a crew too."""

    def __init__(self) -> None:
        """UsageError where they do not find each other."""
        self.rank, self.size = launched.rank(), launched.processes()
        if self.size > 1:
            from torch import distributed

            if not distributed.is_initialized():
                try:
                    distributed.init_process_group("gloo", timeout=PATIENCE)
                except (ValueError, RuntimeError) as error:
                    why = (str(error).splitlines() or [type(error).__name__])[0]
                    raise UsageError(
                        f"{self.size} processes, which do not find each other ({why}); start them with torchrun or "
                        "accelerate launch"
                    ) from error

    @property
    def first(self) -> bool:
        """Whether this process settles what all do, and speaks for all."""
        return self.rank == 0

    def agreed(self, settle: Callable[[], Any]) -> Any:
        """What `settle` gives the first process, for every one; an error there ends the others, which say nothing."""
        if self.size == 1:
            return settle()
        from torch import distributed

        said: list[Any] = [None, None]
        failed: BaseException | None = None
        if self.first:
            try:
                said[0] = settle()
            except BaseException as error:
                failed, said[1] = error, getattr(error, "exit_code", 70)
        distributed.broadcast_object_list(said)
        if failed is not None:
            raise failed
        if said[1] is not None:
            raise Elsewhere(said[1])
        return said[0]


class Elsewhere(SinkctlError):
    """Another process says what went wrong."""

    said = True

    def __init__(self, exit_code: int) -> None:
        super().__init__("see the first process")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Scored:
    """How much is done."""

    tokens: int = 0
    bytes: float = 0.0  # of texts on disk, behind these tokens
    sums: dict[str, list] = field(default_factory=dict)  # by policy: sum and count of losses

    @classmethod
    def of(cls, tokens: int, size: float, totals: dict[str, dict]) -> "Scored":
        return cls(tokens, size, {label: [total["nll"], total["tokens"]] for label, total in totals.items()})

    def __add__(self, other: "Scored") -> "Scored":
        labels = {**self.sums, **other.sums}
        pairs = {
            label: zip(self.sums.get(label, [0, 0]), other.sums.get(label, [0, 0]), strict=True) for label in labels
        }
        sums = {label: [a + b for a, b in pair] for label, pair in pairs.items()}
        return Scored(self.tokens + other.tokens, self.bytes + other.bytes, sums)


@dataclass
class Sign:
    """What a process says of itself."""

    rank: int
    launch: int
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    created: float = field(default_factory=lambda: psutil.Process().create_time())
    beats: int = 0
    text: str = ""  # under way
    scored: Scored = Scored()  # in this launch, with what the states held that it went on from
    taken: int = 0  # tokens of those states
    spent: float = 0.0  # seconds of the run, with those of launches before
    ended: str = ""  # done, stopped, or what went wrong

    @property
    def here(self) -> bool:
        """Whether it is a process of this machine that still runs."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


class Signs:
    """This process's sign, renewed in the background, and those of the others. Use it in a `with`."""

    def __init__(self, folder: Path, crew: Crew, launch: int):
        self._folder, self._size = folder, crew.size
        self.own = Sign(crew.rank, launch)
        self._looked: dict[int, tuple[float, float, Sign | None]] = {}  # by rank: looked at, changed, sign
        self._over, self._writing, self._given = threading.Event(), threading.Lock(), 0.0
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Signs":
        self.give()
        self._thread.start()
        return self

    def __exit__(self, _, error: BaseException | None, __) -> None:
        self._over.set()
        self._thread.join()
        self.own.ended = self.own.ended or str(error or "") or "done"
        with suppress(OSError):  # the run may be over, and its folder gone
            self.give()

    def give(self, now: bool = True) -> None:
        """Write one's own; if not `now`, then where the last one is no longer fresh."""
        with self._writing:
            if not now and time.monotonic() - self._given < SOON:
                return
            self._given = time.monotonic()
            self.own.beats += 1
            self.own.spent = max(self.own.spent, spent())  # no clock runs in the background
            path = self._path(self.own.rank)
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(asdict(self.own)), encoding="utf-8")
            os.replace(temporary, path)

    def all(self) -> list[Sign]:
        """The last sign of every process of this launch that has given one."""
        signs = [self.own if rank == self.own.rank else self._look(rank)[2] for rank in range(self._size)]
        return [sign for sign in signs if sign is not None]

    def lost(self) -> list[Sign]:
        """Of the processes that are no more, and did not say that they end."""
        now, found = time.monotonic(), []
        for rank in set(range(self._size)) - {self.own.rank}:
            _, changed, sign = self._look(rank)
            sign = sign or Sign(rank, self.own.launch, host="?", pid=0, created=0.0)
            gone = not sign.here if sign.host == self.own.host else now - changed > SILENT
            if gone and not sign.ended:
                sign = self._look(rank, anew=True)[2] or sign  # it may have ended between the two looks
                found += [] if sign.ended else [sign]
        return found

    def _look(self, rank: int, anew: bool = False) -> tuple[float, float, Sign | None]:
        now = time.monotonic()
        looked, changed, sign = self._looked.get(rank, (0.0, now, None))
        if anew or now - looked > SOON:
            try:
                found = Sign(**json.loads(self._path(rank).read_text(encoding="utf-8")))
                found.scored = Scored(**found.scored)
            except (OSError, ValueError, TypeError):
                found = None
            if found is not None and found.launch == self.own.launch and found != sign:
                changed, sign = now, found
            self._looked[rank] = looked, changed, sign = now, changed, sign
        return looked, changed, sign

    def _path(self, rank: int) -> Path:
        return self._folder / f"process-{rank}.json"

    def _renew(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(OSError):  # a full disk is for the scoring to tell
                self.give()


def spent_in(folder: Path) -> float:
    """Seconds that a run had taken when its first process last said so; 0 where it never did."""
    try:
        return json.loads((folder / "process-0.json").read_text(encoding="utf-8"))["spent"]
    except (OSError, ValueError, KeyError):
        return 0.0
