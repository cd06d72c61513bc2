"""Texts on their own, in parts that one process or several score, each part with a state of its own.

The first process puts the parts together, in the order of the files: what comes out does not depend on who scored what.
"""

import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psutil

from sinkctl.clock import phase
from sinkctl.errors import Interrupted, SinkctlError, TextError, UsageError
from sinkctl.launched import one_machine
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import device_bytes
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.result.store import STATE, RunFolder, resumable, save_pieces
from sinkctl.tasks.finishing import Finish, finished
from sinkctl.tasks.stream.crew import Crew, Scored, Sign, Signs
from sinkctl.tasks.stream.kept import Kept, losses_of, memory_told, places_of, texts_of
from sinkctl.tasks.stream.lines import PLACES, Stretch, write_lines
from sinkctl.tasks.stream.outcome import Outcome, result_of
from sinkctl.tasks.stream.parts import shared_out
from sinkctl.tasks.stream.plan import DONE, Plan, begun
from sinkctl.tasks.stream.scoring import Progress, StreamRun, nothing_in
from sinkctl.tasks.stream.shared import Shared
from sinkctl.tasks.stream.summary import Total

LOOK = 0.2  # seconds between two looks at what the others have done
LEAVE = 30.0  # seconds that the others may take to end once all is scored
STOPPED, QUIET = "stopped", ("done", "stopped")  # how a process says that it ends


def run_apart(
    recipe: StreamRecipe, loaded: LoadedModel, crew: Crew, output: str | Path | None, resume: bool,
    progress: Callable[[Progress], None], stop: Callable[[], bool], finish: Finish,
) -> Outcome | None:  # fmt: skip
    """Score this process's share; None but for the first process, which waits for the others' and has the outcome."""
    with _place(output, crew) as folder, _named(crew), ExitStack() as holding:
        with phase("preparing"):
            kept = output is not None
            plan = crew.agreed(lambda: begun(Shared.of(recipe, loaded), folder, resume, kept, holding))
            shared = Shared.of(StreamRecipe.model_validate(plan.recipe), loaded)
        if not plan.seen:
            raise UsageError(
                f"--output {plan.folder}: this machine does not see it; processes on several machines need a folder "
                "that all of them see"
            )
        with Signs(Path(plan.folder) / STATE, crew, plan.launch) as signs:
            shift = Shift(shared, plan, signs, crew, output is not None, progress, stop)
            with phase("scoring"):
                shift.work()
            if not crew.first:
                return None
            with phase("waiting"):
                shift.wait()
            with phase("putting together"):
                whole = put_together(shared, plan)
                result = result_of(whole, complete=True, processes=crew.size)
                arrays = _arrays(whole, plan, kept)
            shift.leave()
        made = None if output is None else RunFolder(plan.folder)
        return Outcome(finished(result, made, finish), *arrays)


@contextmanager
def _place(output: str | Path | None, crew: Crew) -> Iterator[str]:
    """The run's folder; without `output` one that goes with the run, where all processes are on one machine."""
    if output is not None or not crew.first:
        yield str(output)  # the others are told
        return
    if not one_machine():
        crew.agreed(_needs_output)
    with tempfile.TemporaryDirectory() as scratch:
        yield scratch


@contextmanager
def _named(crew: Crew) -> Iterator[None]:
    """What goes wrong in another process than the first is said with its number."""
    try:
        yield
    except SinkctlError as error:
        if crew.first or error.said or isinstance(error, Interrupted):
            raise
        raise type(error)(f"process {crew.rank}: {error}") from error


def _needs_output() -> None:
    raise UsageError("processes on several machines need --output, a folder that all of them see")


class Shift:
    """One process's part of the work, and its look at the others."""

    def __init__(
        self, shared: Shared, plan: Plan, signs: Signs, crew: Crew, kept: bool,
        progress: Callable[[Progress], None], stop: Callable[[], bool],
    ):  # fmt: skip
        self.shared, self.plan, self.signs, self.crew = shared, plan, signs, crew
        self._kept, self._progress, self._stop = kept, progress, stop
        self._shares = shared_out(plan.bytes, crew.size)
        self._before = Scored()  # in launches before this one
        for number in range(len(plan.parts)) if crew.first and plan.launch > 1 else ():
            if plan.done(number):
                tally = plan.part(number).load_json(DONE)["tally"]
                self._before += Scored.of(tally["scored"], plan.bytes[number], tally["totals"])
        self._began, self._told = time.monotonic(), 0.0

    def work(self) -> None:
        """Score every part of the share that is not done; Interrupted where asked to stop, its state saved."""
        for number in self._shares[self.crew.rank]:
            if not self.plan.done(number) and not self._part(number):
                raise self._stopped()
        if any(sign.rank == 0 for sign in self.signs.lost()):  # nobody waits for this process, or says anything
            raise self._stopped()

    def _part(self, number: int) -> bool:
        """Whether it came to its end."""
        at, files = self.plan.part(number), range(*self.plan.parts[number])
        at.path.mkdir(exist_ok=True)
        state = at.load_state() if resumable(at.path) else None
        run = StreamRun(
            self.shared.settled.recipe, self.shared.loaded, state, shared=self.shared, files=files,
            who=f"{self.plan.launch}.{self.crew.rank}", stop=self._stop,
        )  # fmt: skip
        own, before = self.signs.own, self.signs.own.scored
        own.taken += run.tally.scored

        def seen() -> None:
            totals = {label: vars(total) for label, total in run.tally.totals.items()}
            other = own.text != run.name
            own.text, own.scored = run.name, before + Scored.of(run.tally.scored, run.bytes_read, totals)
            self.signs.give(now=other)  # if it dies, this is where
            self._tell()

        seen()
        kept = Kept(run, at.path, at if self._kept else None)
        try:
            with memory_told(run.recipe.chunk, run.loaded.device):
                if not kept.through(seen, self._stop):
                    return False
            kept.sync()
            at.write_json(DONE, run.found())
        finally:
            kept.close(remove=False)
        at.drop_state()
        seen()
        return True

    def wait(self) -> None:
        """Until the others are done with theirs; SinkctlError names those that died, or what they died of."""
        missing = range(len(self.plan.parts))
        while missing := [number for number in missing if not self.plan.done(number)]:
            self._tell()
            over = {sign.rank for sign in self.signs.lost() + self._ended()}
            hopeless = all(any(n in self._shares[r] for r in over) and not self.plan.done(n) for n in missing)
            if self._stop() or hopeless:
                raise self._stopped()
            time.sleep(LOOK)

    def leave(self) -> None:
        """Until the others have said that they end, or are gone."""
        latest = time.monotonic() + LEAVE
        while len(self._ended() + self.signs.lost()) < self.crew.size - 1 and time.monotonic() < latest:
            time.sleep(LOOK / 4)

    def _ended(self) -> list[Sign]:
        return [sign for sign in self.signs.all() if sign.ended]

    def _stopped(self) -> SinkctlError:
        """What ended the run before its end, said by the first process that is left."""
        lost = self.signs.lost()
        gone = [f"process {sign.rank} (pid {sign.pid} on {sign.host}) died{_amid(sign)}" for sign in lost]
        ended = [sign for sign in self._ended() if sign.ended not in QUIET]
        gone += [f"process {sign.rank} ended{_amid(sign)}: {sign.ended}" for sign in ended]
        error: SinkctlError = Interrupted(f"stopped after {self._scored.tokens:,} tokens; {self._goes_on()}")
        if gone:
            error = SinkctlError(f"{'; '.join(gone)}. What was scored is kept; {self._goes_on()}")
        left = set(range(self.crew.size)) - {sign.rank for sign in lost + ended}
        error.said = self.crew.rank != min(left)
        self.signs.own.ended = STOPPED
        return error

    def _goes_on(self) -> str:
        if not self._kept:
            return "nothing was kept (no --output)"
        if not all(map(Path.is_file, map(Path, self.shared.settled.files))):
            return "a pipe cannot be read again, so there is nothing to resume"
        return f"continue with: sinkctl stream --resume {shlex.quote(self.plan.folder)}"

    @property
    def _scored(self) -> Scored:
        """By all processes together."""
        return sum((sign.scored for sign in self.signs.all()), self._before)

    def _tell(self) -> None:
        """Where all are together, now and then; only the first process is asked."""
        now = time.monotonic()
        if now - self._told < LOOK or not self.crew.first:
            return
        self._told = now
        scored, whole = self._scored, sum(self.plan.bytes)
        anew = sum(sign.scored.tokens - sign.taken for sign in self.signs.all())
        self._progress(
            Progress(
                scored.tokens, min(1.0, scored.bytes / whole) if whole else None, anew / max(now - self._began, 1e-9),
                {label: Total(*pair).perplexity for label, pair in scored.sums.items()},
                psutil.Process().memory_info().rss, device_bytes(self.shared.loaded.device),
            )
        )  # fmt: skip


def _amid(sign: Sign) -> str:
    return f" in {sign.text}, after {sign.scored.tokens:,} tokens" if sign.text else ""


def put_together(shared: Shared, plan: Plan) -> StreamRun:
    """What all parts found, as one run that is done."""
    whole = StreamRun(shared.settled.recipe, shared.loaded, shared=shared)
    for number, (first, _) in enumerate(plan.parts):
        whole.join(plan.part(number).load_json(DONE), first)
    if not whole.tally.scored:
        raise TextError(nothing_in(shared.settled.names))
    whole.choices |= plan.choices
    for scorer in whole.scorers.values():
        scorer.stand_at(whole.tally.longest)
    return whole


def _stretches(whole: StreamRun, plan: Plan) -> Iterator[Stretch]:
    index = 0
    for number, (first, end) in enumerate(plan.parts):
        folder = plan.part(number).path
        nll = [np.fromfile(losses_of(folder, policy), "<f4") for policy in range(len(whole.scorers))]
        places = np.fromfile(places_of(folder), "<i8").reshape(-1, PLACES)
        yield Stretch(index, nll, places, whole.names[first:end])
        index += len(places)


def _arrays(whole: StreamRun, plan: Plan, kept: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Write nll.npy and texts.npy; what is in them: (losses by policy, places of texts)."""
    folders, tally = [plan.part(number).path for number in range(len(plan.parts))], whole.tally
    labels, folder = list(whole.scorers), Path(plan.folder)
    shape = (tally.scored,) if len(labels) == 1 else (len(labels), tally.scored)
    losses = (np.fromfile(losses_of(each, number), "<f4") for number in range(len(labels)) for each in folders)
    save_pieces(folder / "nll.npy", shape, np.dtype("<f4"), losses)
    if kept and whole.recipe.passages.save_as:
        write_lines(folder, whole, _stretches(whole, plan))

    def places() -> Iterator[np.ndarray]:
        index = 0
        for number, (first, _) in enumerate(plan.parts):
            found = np.fromfile(texts_of(folders[number]), "<i8").reshape(-1, 4)
            found[:, :2] += index, first
            index += plan.part(number).load_json(DONE)["tally"]["scored"]
            yield found

    save_pieces(folder / "texts.npy", (tally.texts, 4), np.dtype("<i8"), places())
    # A folder that stays holds them; one that goes with the run does not.
    nll, found = (np.load(folder / name, mmap_mode="r" if kept else None) for name in ("nll.npy", "texts.npy"))
    return dict(zip(labels, nll.reshape(len(labels), -1), strict=True)), found
