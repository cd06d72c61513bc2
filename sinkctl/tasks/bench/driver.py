"""Which process measures what, in which order: lanes (versions) take turns, groups come one after the other."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from sinkctl.errors import Interrupted, ModelError, SinkctlError, TextError, UsageError
from sinkctl.recipe.schema import BenchRecipe
from sinkctl.recipe.sizes import FRESH, Size, sizes
from sinkctl.result.numbers import quantity
from sinkctl.tasks.bench.pace import Pace
from sinkctl.tasks.bench.process import Worker
from sinkctl.tasks.bench.way import METRICS

HERE = "here"  # the lane of this version
REFUSALS = (ModelError, TextError, UsageError)  # what a case cannot do with this model, or this size of it


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
        why = {"kind": type(error).__name__, "why": str(error)}
        return cls(nothing | {"size": size, "choices": {}, "failed": {}, "refused": why})

    @property
    def refusal(self) -> dict[str, str] | None:
        """The kind and the words of the error, where it cannot run."""
        return self.opened.get("refused")

    def join(self, other: "Found", name: str) -> None:
        """Take the samples of another process; a way that ran in one of the two alone is left out, and said."""
        mine, others = self.opened["ways"], other.opened["ways"]
        if other.refusal:
            self.opened.setdefault("refused", other.refusal)
        for way in mine.keys() ^ others.keys():
            self.opened["failed"][way] = (self.opened["failed"] | other.opened["failed"]).get(
                way, "in one process alone"
            )
            mine.pop(way, None)
            self.seconds.pop(way, None)
        if self.opened["yardstick"] not in mine:
            self.opened["yardstick"] = None
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
    if found.refusal:
        return f"n/a: {found.refusal['why']}"
    metric, parts = METRICS[found.opened["metric"]], []
    for way, of_process in found.seconds.items():
        seconds = median(sample for of_rounds in of_process for sample in of_rounds)
        parts.append((way, metric.of(seconds, found.opened["ways"][way]["count"]), metric.unit))
    for reading in found.opened["readings"]:
        value = reading["value"]  # or several, one a round
        parts.append((reading["way"], median(value) if isinstance(value, list) else value, reading["unit"]))
    failed = [f"{way} did not run" for way in found.opened["failed"]]
    return ", ".join([*(f"{way} {quantity(value, unit)}" for way, value, unit in parts), *failed])


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
                if not wanted:
                    continue
                with ExitStack() as stack:
                    told = self._telling(what, lambda: past / total, 1 / total)  # noqa: B023 (as it is by then)
                    workers = {}
                    for lane, python in self.pythons.items():
                        workers[lane] = stack.enter_context(
                            Worker(self._plain, python=python, name="" if lane == HERE else lane, told=told)
                        )
                        facts = collected.facts.setdefault(lane, [])
                        rated = any(of_process["rates"] for of_process in facts)
                        fresh = self._fresh(keys_of_worker[0])
                        facts.append(workers[lane].ask("facts", measured=lane == HERE and not rated and not fresh))
                    self._met(collected.facts[HERE][-1])
                    for key in wanted:
                        self._pace.begin()
                        self._group(workers, key, process, collected, what, past / total, 1 / total)
                        self._pace.end()
                        collected.done.add((process, key))
                        past += 1
                        self._save(collected)
                        name = f"{what}{self.recipe.cases[key.case].label} {key.label}"
                        said = f"{name}: {said_of(collected.found[HERE][key])}"
                        self._say(name, past / total, said)
        self._say("done", 1.0)
        return collected

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
    ) -> None:  # fmt: skip
        name = f"{what}{self.recipe.cases[key.case].label} {key.label}"
        self._say(f"{name}: building", share)
        found = {}
        for lane, worker in workers.items():
            self._asked_to_stop()
            found[lane] = self._opened(worker, key)
        timed = [lane for lane in workers if found[lane].opened["ways"]]
        rounds = self.recipe.timing.rounds if HERE in timed else 0
        for number in range(rounds):
            for lane in timed if number % 2 == 0 else timed[::-1]:
                self._asked_to_stop()
                for way, seconds in workers[lane].ask("round").items():
                    of_way = found[lane].seconds.setdefault(way, [[]])
                    of_way[0].append(seconds)
            self._say(f"{name}: round {number + 1} of {rounds}", share + step * (number + 1) / rounds)
        for lane, worker in workers.items():
            worker.ask("close")
            kept = collected.found.setdefault(lane, {})
            if process == 0:
                kept[key] = found[lane]
            else:
                kept[key].join(found[lane], name)

    def _opened(self, worker: Worker, key: Key) -> Found:
        """Ready for its rounds; or why this row cannot be measured, which leaves the others theirs."""
        try:
            return Found(worker.ask("open", number=key.case, label=key.label))
        except REFUSALS as error:
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
