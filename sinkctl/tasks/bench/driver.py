"""Which process measures what, in which order: lanes (versions) take turns, groups come one after the other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from sinkctl.errors import REFUSALS, Interrupted, SinkctlError, named
from sinkctl.recipe.schema import BenchRecipe
from sinkctl.recipe.sizes import FRESH, Size, sizes
from sinkctl.result.bench import OURS
from sinkctl.result.numbers import quantity
from sinkctl.tasks.bench.pace import Pace
from sinkctl.tasks.bench.process import DiedError, KilledError, Worker
from sinkctl.tasks.bench.way import METRICS

HERE = "here"  # the lane of this version
ALONE = "in one process alone"  # a way ran


class Key(NamedTuple):
    """A case at a size."""

    case: int
    label: str


class Progress(NamedTuple):
    """What is under way, the share of the whole that is done, and what was just found."""

    what: str
    share: float
    found: tuple[str, ...] = ()
    seconds_left: float | None = None


@dataclass
class Found:
    """What one lane measured of one case at one size: what `Session.open` said, and seconds a call by process."""

    opened: dict[str, Any]
    seconds: dict[str, list[list[float]]] = field(default_factory=dict)  # way → process → round

    @classmethod
    def refused(cls, size: Size, error: SinkctlError) -> "Found":
        """Of a case that cannot run at a size: nothing, and why."""
        nothing = {"metric": "ms", "yardstick": None, "ways": {}, "other": {}, "added": {}, "readings": []}
        why = {"kind": named(error), "why": str(error)}
        return cls(nothing | {"size": size, "choices": {}, "failed": {}, "refused": why})

    @property
    def refusal(self) -> dict[str, str] | None:
        """The kind and the words of the error, where ours cannot run."""
        return self.opened.get("refused")

    @property
    def measured(self) -> bool:
        """Whether there is a number."""
        return bool(self.seconds or self.opened["readings"])

    def add(self, answers: dict[str, float | dict[str, str]]) -> None:
        """A round's seconds a call of every way, or why it does not go on."""
        for way, answer in answers.items():
            if isinstance(answer, dict):
                self.lose(way, answer)
            else:
                self.seconds.setdefault(way, [[]])[0].append(answer)

    def lose(self, way: str, said: dict[str, str]) -> None:
        """A way does not go on, as `refusal` has it: its samples are left out, and why is kept."""
        self.opened["ways"].pop(way, None)
        self.seconds.pop(way, None)
        if self.opened["yardstick"] == way:
            self.opened["yardstick"] = None
        if way == OURS:
            self.opened.setdefault("refused", said)
        else:
            self.opened["failed"].setdefault(way, said["why"])

    def lost(self, ways: Iterable[str]) -> str | None:
        """Why one of the ways was not measured; None where all were."""
        if self.refusal:
            return self.refusal["why"]
        return next((self.opened["failed"].get(way, ALONE) for way in ways if way not in self.seconds), None)

    def join(self, other: "Found", name: str) -> None:
        """Take the samples of another process; a way that ran in one of the two alone is left out, and said."""
        mine, others = self.opened["ways"], other.opened["ways"]
        failed, refused = self.opened["failed"] | other.opened["failed"], self.refusal or other.refusal
        if refused:
            self.opened["refused"] = refused
        for way in mine.keys() ^ (others.keys() & other.seconds.keys()):
            self.lose(way, {"why": failed.get(way, refused["why"] if refused else ALONE)})
        for way in mine:
            if mine[way] != others[way]:
                raise SinkctlError(f"{name}: {way} does other work in another process; set its chunk to a number")
            self.seconds[way] += other.seconds[way]


@dataclass
class Collected:
    """Everything measured so far; plain data in and out, so that a stopped run goes on."""

    found: dict[str, dict[Key, Found]] = field(default_factory=dict)  # by lane
    facts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by lane, of every process
    done: set[tuple[int, Key]] = field(default_factory=set)  # (process, key)

    def dump(self) -> dict[str, Any]:
        return {
            "found": {
                lane: [[*key, vars(found)] for key, found in of_lane.items()] for lane, of_lane in self.found.items()
            },
            "facts": self.facts,
            "done": [[process, *key] for process, key in sorted(self.done)],
        }

    @classmethod
    def load(cls, data: dict[str, Any]) -> "Collected":
        found = {
            lane: {Key(case, label): Found(**kept) for case, label, kept in items}
            for lane, items in data["found"].items()
        }
        return cls(found, data["facts"], {(process, Key(case, label)) for process, case, label in data["done"]})


def said_of(found: Found) -> str:
    """What is known of a case at a size: sinkctl 4.63 ms, stock 21.4 ms."""
    metric, parts = METRICS[found.opened["metric"]], []
    refused = [f"n/a: {found.refusal['why']}"] if found.refusal else []
    for way, of_process in found.seconds.items():
        seconds = median(sample for of_rounds in of_process for sample in of_rounds)
        parts.append((way, metric.of(seconds, found.opened["ways"][way]["count"]), metric.unit))
    for reading in found.opened["readings"]:
        value = reading["value"]  # or several, one a round
        parts.append((reading["way"], median(value) if isinstance(value, list) else value, reading["unit"]))
    failed = [f"{way} did not run" for way in found.opened["failed"]]
    return ", ".join([*refused, *(f"{way} {quantity(value, unit)}" for way, value, unit in parts), *failed])


class Driver:
    """Takes a recipe's measurements, in this version and perhaps another."""

    def __init__(
        self, recipe: BenchRecipe, pythons: dict[str, str], *, progress: Callable[[Progress], None],
        stop: Callable[[], bool], save: Callable[[Collected], None] = lambda collected: None,
        met: Callable[[dict[str, Any]], None] = lambda facts: None,
    ):  # fmt: skip
        """`pythons` has an interpreter for each lane, HERE first.

        `met` sees what the machine is before anything is measured, `save` what there is after every group.
        """
        self.recipe, self.pythons = recipe, pythons
        # Settings of their default are left out: another version may not know them yet.
        self._plain = recipe.model_dump(mode="json", exclude_defaults=True) | {"task": "bench"}
        for plain, case in zip(self._plain["cases"], recipe.cases, strict=True):
            plain["kind"] = case.kind
        self._progress, self._stop, self._save, self._met = progress, stop, save, met
        self._pace = Pace()

    def keys(self) -> list[Key]:
        """Every case at each of its sizes."""
        return [Key(number, label) for number, case in enumerate(self.recipe.cases) for label in sizes(case)]

    def collect(self, collected: Collected, keys: Sequence[Key], what: str = "") -> Collected:
        """Measure `keys` in every process, what is done already left out; Interrupted where asked to stop."""
        processes = self.recipe.timing.processes
        total, past = processes * len(keys), 0
        order = [key for keys_of_worker in self._workers(keys) for key in keys_of_worker]
        left = [(process, key) for process in range(processes) for key in order]
        self._pace.ahead = [key for each in left if each not in collected.done for key in each[1:]]
        for process in range(processes):
            for keys_of_worker in self._workers(keys):
                wanted = [key for key in keys_of_worker if (process, key) not in collected.done]
                past += len(keys_of_worker) - len(wanted)
                if process:  # what is not timed comes out the same in every process
                    untimed = [key for key in wanted if not collected.found[HERE][key].opened["ways"]]
                    past += len(untimed)
                    self._pace.skip(untimed)
                    wanted = [key for key in wanted if key not in untimed]
                while wanted:  # in other workers where those before them died
                    with ExitStack() as stack:
                        told = self._telling(what, lambda: past / total, 1 / total)  # noqa: B023 (as it is by then)
                        workers, died = self._started(stack, told, collected, self._fresh(wanted[0])), False
                        while wanted and not died:
                            key = wanted.pop(0)
                            self._pace.begin()
                            died = self._group(workers, key, process, collected, what, past / total, 1 / total)
                            self._pace.end()
                            collected.done.add((process, key))
                            past += 1
                            self._save(collected)
                            name = f"{what}{self.recipe.cases[key.case].label} {key.label}"
                            said = f"{name}: {said_of(collected.found[HERE][key])}"
                            self._say(name, past / total, said)
        self._say("done", 1.0)
        return collected

    def _started(
        self, stack: ExitStack, told: Callable[[str, float], None], collected: Collected, fresh: bool
    ) -> dict[str, Worker]:  # fmt: skip
        """A worker a lane, as long as `stack`; what they say of machine and model is collected."""
        workers = {}
        for lane, python in self.pythons.items():
            name = "" if lane == HERE else lane
            workers[lane] = stack.enter_context(Worker(self._plain, python=python, name=name, told=told))
            facts = collected.facts.setdefault(lane, [])
            rated = any(of_process["rates"] for of_process in facts)
            facts.append(workers[lane].ask("facts", measured=lane == HERE and not rated and not fresh))
        self._met(collected.facts[HERE][-1])
        return workers

    def _say(self, what: str, share: float, *found: str) -> None:
        self._progress(Progress(what, share, found, self._pace.seconds_left))

    def _workers(self, keys: Sequence[Key]) -> Iterator[list[Key]]:
        """Keys that share a process; a case that measures the process itself has one for each size."""
        shared: list[Key] = []
        for key in keys:
            if self._fresh(key):
                yield [key]
            else:
                shared.append(key)
        if shared:
            yield shared

    def _fresh(self, key: Key) -> bool:
        return self.recipe.cases[key.case].kind in FRESH

    def _group(
        self, workers: dict[str, Worker], key: Key, process: int, collected: Collected, what: str, share: float,
        step: float,
    ) -> bool:  # fmt: skip
        """Measure a case at a size; whether a worker died of it, which is then its answer."""
        name, died = f"{what}{self.recipe.cases[key.case].label} {key.label}", False
        self._say(f"{name}: building", share)
        found: dict[str, Found] = {}

        def asked(lane: str, do: str, **request: Any) -> Any:
            """Its answer; or none where this row cannot be measured, and what it measured by then goes."""
            nonlocal died
            self._asked_to_stop()
            try:
                return workers[lane].ask(do, **request)
            except Interrupted:
                raise
            except SinkctlError as error:
                self._asked_to_stop()  # whoever stops us may have stopped our workers too
                if lane == HERE and not isinstance(error, (KilledError, *REFUSALS)):
                    raise
                died, found[lane] = died or isinstance(error, DiedError), self._refused(key, error)
            return None

        for lane in workers:
            opened = asked(lane, "open", number=key.case, label=key.label)
            if opened is not None:
                found[lane] = Found(opened)
        rounds = self.recipe.timing.rounds
        for number in range(rounds):
            timed = [lane for lane in workers if found[lane].opened["ways"]]
            if HERE not in timed:
                break
            for lane in timed if number % 2 == 0 else timed[::-1]:
                found[lane].add(asked(lane, "round") or {})
            self._say(f"{name}: round {number + 1} of {rounds}", share + step * (number + 1) / rounds)
        for lane in workers:
            try:
                if not died:
                    workers[lane].ask("close")
            except DiedError as error:  # while the other one worked: what it measured stands
                if lane == HERE and not isinstance(error, KilledError):
                    raise
                died = True
            kept = collected.found.setdefault(lane, {})
            if process == 0:
                kept[key] = found[lane]
            else:
                kept[key].join(found[lane], name)
        return died

    def _refused(self, key: Key, error: SinkctlError) -> Found:
        """Why this row cannot be measured, which leaves the others theirs."""
        return Found.refused(sizes(self.recipe.cases[key.case])[key.label], error)

    def _telling(self, what: str, share: Callable[[], float], step: float) -> Callable[[str, float], None]:
        """What a worker says of the group it builds; where asked to stop, it is not waited for."""

        def told(said: str, part: float) -> None:
            self._asked_to_stop()
            self._say(f"{what}{said}", share() + step * part)

        return told

    def _asked_to_stop(self) -> None:
        if self._stop():
            raise Interrupted("stopped")
