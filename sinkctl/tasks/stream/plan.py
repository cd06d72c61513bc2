"""What a run over texts on their own begins with: settled once, kept in its folder, the same for every process."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sinkctl.clock import carry
from sinkctl.errors import ResumeError
from sinkctl.result.environment import environment
from sinkctl.result.store import ENVIRONMENT, STATE, RunFolder
from sinkctl.tasks.stream.crew import spent_in
from sinkctl.tasks.stream.identity import check_same, identity
from sinkctl.tasks.stream.parts import parts_of
from sinkctl.tasks.stream.settle import Settled
from sinkctl.tasks.stream.shared import Shared
from sinkctl.text import fingerprint

DONE = "done.json"  # of a part: what was found in it


@dataclass
class Plan:
    """The run's folder, its parts, and its settings as plain data."""

    folder: str
    launch: int  # how many times the run was started, this one included
    recipe: dict[str, Any]
    choices: dict[str, str]
    sizes: list[int]  # bytes on disk of every file; of a pipe 0
    parts: list[tuple[int, int]]  # (first, end) of each part's files

    def part(self, number: int) -> RunFolder:
        """Where a part is kept."""
        return RunFolder(Path(self.folder) / STATE / f"part-{number:04}")

    def done(self, number: int) -> bool:
        """Whether all of a part is scored."""
        return (self.part(number).path / DONE).exists()

    @cached_property
    def bytes(self) -> list[int]:
        """Of every part."""
        return [sum(self.sizes[first:end]) for first, end in self.parts]

    @property
    def seen(self) -> bool:
        """Whether this machine sees the folder as it was made for this launch."""
        try:
            return RunFolder(self.folder).state_data()["step"] == self.launch
        except ResumeError:
            return False


def laid_out(settled: Settled) -> tuple[list[int], list[tuple[int, int]]]:
    """(bytes of every file on disk, of a pipe 0; the parts)."""
    sizes = [file["size"] or 0 for file in fingerprint(settled.files)]
    return sizes, parts_of(sizes)


def begun(shared: Shared, folder: str, resume: bool, kept: bool, holding: ExitStack) -> Plan:
    """Make the run's folder, or with `resume` go on with the one there; `kept`: whether anybody looks at it later;
    `holding`: as long as that, no other run may go on in it.

    ResumeError where anything changed that what is scored by now depends on. A part that is not done and whose files
    are of other sizes begins anew: what a damaged file is replaced by, say.
    """
    settled, (sizes, parts) = shared.settled, laid_out(shared.settled)
    own, recipe = identity(settled, shared.loaded, settled.files, whole=True), settled.recipe.model_dump(mode="json")
    if resume:
        run = RunFolder.unfinished(folder, holding)
        data = run.state_data()
        before = data["identity"].pop("text")
        own_text = own.pop("text")
        check_same(data["identity"], own)
        parts = [tuple(part) for part in data["parts"]]
        plan = Plan(folder, data["step"] + 1, recipe, data["choices"], sizes, parts)
        carry(spent_in(run.path / STATE))
        _begin_anew(plan, before, own_text)
        own["text"] = own_text
    else:
        run = RunFolder.create(folder, holding)
        if kept:
            run.write_recipe(recipe)
            run.write_json(ENVIRONMENT, environment())
        plan = Plan(folder, 1, recipe, settled.choices, sizes, parts)
    data = {name: value for name, value in asdict(plan).items() if name in ("choices", "parts")}
    run.save_state(data | {"step": plan.launch, "identity": own}, {})
    return plan


def _begin_anew(plan: Plan, before: list[dict[str, Any]], now: list[dict[str, Any]]) -> None:
    """Drop the states of parts whose files are of other sizes; ResumeError where what is done depends on them."""
    if [file["path"] for file in before] != [file["path"] for file in now]:
        check_same({"text": before}, {"text": now})
    for number, (first, end) in enumerate(plan.parts):
        if before[first:end] != now[first:end]:
            if plan.done(number):
                check_same({"text": before[first:end]}, {"text": now[first:end]})
            plan.part(number).drop_state()
