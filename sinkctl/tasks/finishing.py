"""How a run begins in its folder, and how it ends: its report, its result, then nothing is left to resume."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from sinkctl.clock import phase
from sinkctl.result.environment import environment
from sinkctl.result.schema import Result
from sinkctl.result.store import ENVIRONMENT, RunFolder

Finish = Callable[[RunFolder, Result], None]

State = tuple[dict[str, Any], dict[str, Any]]


class Settled(Protocol):
    """A run with its recipe, every automatic choice in it settled."""

    recipe: BaseModel


Begun = TypeVar("Begun", bound=Settled)


@contextmanager
def begun(
    make: Callable[[State | None], Begun], output: str | Path | None, resume: bool
) -> Iterator[tuple[Begun, Path, RunFolder | None]]:
    """What `make` makes of the kept state, or of none; where its arrays go; and its run folder, where it keeps one."""
    with ExitStack() as holding:
        with phase("preparing"):
            begin = RunFolder.unfinished if resume else RunFolder.create
            folder = None if output is None else begin(output, holding)
            made = make(folder.load_state() if resume else None)
            if folder is not None and not resume:
                folder.write_recipe(made.recipe.model_dump(mode="json"))
                folder.write_json(ENVIRONMENT, environment())
        if folder is not None:
            yield made, folder.path, folder
            return
        with TemporaryDirectory() as scratch:
            yield made, Path(scratch), None


def finished(
    result: Result, folder: RunFolder | None, finish: Finish, told: Callable[[str], None] = lambda what: None
) -> Result:
    """The result with what the run took, report and all; with a folder, kept there after what `finish` adds."""
    if folder is None:
        return result.clocked()
    told("writing the report")
    with phase("report"):
        finish(folder, result.clocked())
        result = result.clocked()
        folder.write_result(result)
        folder.drop_state()
    return result
