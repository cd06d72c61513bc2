"""How a run ends: its report, then its result, then nothing is left to resume."""

from collections.abc import Callable

from sinkctl.clock import phase
from sinkctl.result.schema import Result
from sinkctl.result.store import RunFolder

Finish = Callable[[RunFolder, Result], None]


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
