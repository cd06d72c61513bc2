"""One checkpoint of a measurement: its inputs, then what its sinks are worth; what is kept is not done again."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sinkctl.clock import phase, spent
from sinkctl.errors import ResumeError, within_memory
from sinkctl.kernels.present import uncompiled
from sinkctl.model.compiled import spared_kernels
from sinkctl.model.load import LoadedModel
from sinkctl.model.parallel import as_the_first_says
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.measure import CheckpointScore, CostLine, InputScore, MixingLine
from sinkctl.result.store import RunFolder
from sinkctl.result.suspects import SuspectReport
from sinkctl.tasks.measure.costs import STREAMING, Costs, costs
from sinkctl.tasks.measure.input_set import InputSet
from sinkctl.tasks.measure.inputs import inputs
from sinkctl.tasks.measure.pace import LOST, STREAMED, said, within, work
from sinkctl.tasks.measure.run import InputRun, check_fits
from sinkctl.tasks.measure.suspects import alarm_lines, suspects
from sinkctl.tasks.measure.verdict import early_lines, rate_line, verdict
from sinkctl.tasks.pace import Pace, probed
from sinkctl.tasks.stopping import go_on
from sinkctl.tasks.stream.outcome import model_report


@dataclass(frozen=True)
class Progress:
    """Where a run is."""

    what: str  # checkpoint and input
    share: float
    seconds_left: float | None = None  # of this checkpoint
    found: tuple[str, ...] = ()  # what can be said already, once


@dataclass
class Kept:
    """What a stopped run need not do again: parts of checkpoints, by "<number>/<part>"."""

    parts: dict[str, Any]
    arrays: dict[str, Tensor]
    folder: RunFolder | None
    recipe: dict[str, Any]
    files: list[list[Any]]  # name, size and time of what is read
    step: int = 0

    def add(self, name: str, part: dict[str, Any], arrays: dict[str, Tensor] | None = None) -> None:
        self.parts[name] = part
        self.arrays |= arrays or {}
        self.step += 1
        self.save()

    def save(self) -> None:
        """Everything so far, on disk."""
        if self.folder is not None:
            state = {
                "step": self.step,
                "recipe": self.recipe,
                "files": self.files,
                "parts": self.parts,
                "spent": spent(),
            }
            self.folder.save_state(state, self.arrays)


class Measuring:
    """`run` fills `inputs` and the rest, as far as it comes; `score` is what there is."""

    def __init__(
        self, recipe: MeasureRecipe, loaded: LoadedModel, number: int, kept: Kept,
        told: Callable[[Progress], None], stop: Callable[[], bool],
    ):  # fmt: skip
        self.recipe, self.loaded, self.number, self.kept = recipe, loaded, number, kept
        self.told, self.stop = told, stop
        self.choices = dict(loaded.choices)
        self.notes = list(loaded.notes)
        self.inputs: list[InputScore] = []
        self.costs = Costs()
        self.suspects: SuspectReport | None = None

    def run(self, seconds: float | None) -> None:
        """Within about so many seconds, where that is said; raises as `costs` does."""
        self.told(Progress("reading", 0.0))
        with phase("preparing"):
            shown = self._sized(seconds)
        longest = max((len(ids) for each in shown for ids in each.samples if ids.dim() == 1), default=0)  # images apart
        with uncompiled(spared_kernels(self.loaded.model, self.pace.ahead, longest)):
            self._measure(shown)
        if self.recipe.suspect.file is not None:
            with phase("suspects"):
                self._suspect(f"{self.number}/suspects")

    def _measure(self, shown: list[InputSet]) -> None:
        with phase("measuring"):
            for each in shown:
                self._input(each)
        known = tuple(verdict(self.loaded.kind, self.inputs, []))[:2]
        self.told(Progress("costs", self.pace.share, self.pace.seconds_left, known))
        name = f"{self.number}/costs"
        if name not in self.kept.parts:
            with phase("costs"):
                self._cost(name)
        part = self.kept.parts[name]
        self.costs = Costs(
            [CostLine.model_validate(line) for line in part["lines"]],
            [MixingLine.model_validate(line) for line in part["mixing"]],
            part["notes"],
            part["choices"],
        )

    def _sized(self, seconds: float | None) -> list[InputSet]:
        """What is shown, of the sizes that fit; a resumed run keeps those that it began with."""
        began = time.monotonic()

        def told(what: str, share: float) -> None:
            passed = time.monotonic() - began
            self.told(Progress(what, 0.0, passed * (1 - share) / share if share else None))

        name, shown = f"{self.number}/model", inputs(self.recipe, self.loaded, told)
        known = self.kept.parts.get(name)
        if known is not None and known["fingerprint"] != self.loaded.fingerprint:
            raise ResumeError(f"{self.loaded.name}: the checkpoint changed since the run was started; start a new run")
        speed = None
        if shown[0].given is None and shown[0].samples[0].dim() == 1:
            check_fits(self.loaded, max(map(len, shown[0].samples)), self.recipe)
            speed = probed(self.loaded, shown[0].samples)
        if speed is not None:  # sizes may go by them
            speed, seconds = (
                None if x is None else as_the_first_says(x, self.loaded.sharers) for x in (speed, seconds)
            )
        if seconds is not None and speed is None:
            self.notes.append("--budget: no probe tells how long this model takes; sizes were left as they are.")
        if known is None:
            sized, choice = self.recipe, {}
            if seconds is not None and speed is not None:
                sized = within(self.recipe, self.loaded, len(shown), seconds, speed)
                choice = {"budget": said(sized, speed)}
            sizes = {"samples": sized.input.samples, "cost": sized.cost.model_dump(), "choices": choice}
            known = {"fingerprint": self.loaded.fingerprint} | sizes
            self.kept.add(name, known)
        self.choices |= known["choices"]
        if known["choices"]:
            own = self.recipe.input.model_copy(update={"samples": known["samples"]})
            cost = type(self.recipe.cost).model_validate(known["cost"])
            self.recipe = self.recipe.model_copy(update={"input": own, "cost": cost})
            shown = inputs(self.recipe, self.loaded)
        of_inputs, of_costs = work(self.recipe, self.loaded, len(shown))
        self.pace = Pace(of_inputs + of_costs, speed)
        self._input_work = of_inputs / len(shown)
        self.told(Progress("inputs", 0.0, self.pace.seconds_left))
        return shown

    def _input(self, each: InputSet) -> None:
        name, before = f"{self.number}/{each.name}", self.pace.done

        def told(share: float) -> None:
            first = before == self.pace.done and share < 1
            early = tuple(early_lines(measured.score())[: 1 if self.inputs else None]) if first else ()
            self.pace.do(before + share * self._input_work - self.pace.done)
            self.told(Progress(each.name, self.pace.share, self.pace.seconds_left, early))

        if name not in self.kept.parts:
            measured = InputRun(self.recipe, self.loaded, each)
            score, arrays = measured(told, self.stop)
            own = [*measured.notes, *([each.note] if each.note else [])]
            named = {f"{name}/{metric}": x for metric, x in arrays.items()}
            self.kept.add(name, {"score": score.model_dump(), "notes": own, "choices": measured.choices}, named)
        else:
            self.pace.ahead -= self._input_work
        part = self.kept.parts[name]
        self.inputs.append(InputScore.model_validate(part["score"]))
        self.notes += part["notes"]
        self.choices |= part["choices"]
        self.told(Progress(each.name, self.pace.share, self.pace.seconds_left, rate_line(self.inputs[-1])))

    def _cost(self, name: str) -> None:
        def told(what: str, tokens: int) -> None:
            self.pace.do(tokens * (STREAMED if what == STREAMING else LOST))
            self.told(Progress(what, self.pace.share, self.pace.seconds_left))

        with within_memory(self.loaded.device, "--no-cost leaves the costs out, --set cost.window=N keeps less"):
            costs(self.recipe, self.loaded, self.inputs, told, self.stop, self.costs)
        found = self.costs
        self.kept.add(name, {
            "lines": [line.model_dump() for line in found.lines],
            "mixing": [line.model_dump() for line in found.mixing],
            "notes": found.notes,
            "choices": found.choices,
        })  # fmt: skip

    def _suspect(self, name: str) -> None:
        if name not in self.kept.parts:
            what = "suspects"
            report = suspects(
                self.recipe, self.loaded, lambda share: self.told(Progress(what, share)), lambda: go_on(self.stop)
            )
            self.kept.add(name, report.model_dump())
        self.suspects = SuspectReport.model_validate(self.kept.parts[name])

    def score(self, label: str, step: int | None) -> CheckpointScore:
        """Everything known by now."""
        self.choices |= self.costs.choices
        return CheckpointScore(
            label=label,
            step=step,
            model=model_report(self.loaded, []),
            kind=self.loaded.kind,
            verdict=[*alarm_lines(self.suspects), *verdict(self.loaded.kind, self.inputs, self.costs.lines)],
            notes=list(dict.fromkeys([*self.notes, *self.costs.notes])),
            inputs=self.inputs,
            costs=self.costs.lines,
            mixing=self.costs.mixing,
            suspects=self.suspects,
        )
