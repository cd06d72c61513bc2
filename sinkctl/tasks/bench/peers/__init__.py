"""What users would run instead: transformers alone, and the published streaming recipe."""

from collections.abc import Callable

from sinkctl.cache.policies import SinkWindow
from sinkctl.model.load import LoadedModel
from sinkctl.tasks.bench.way import Way


def fitting(policy: SinkWindow, loaded: LoadedModel) -> int:
    """Tokens of a piece: S+W+1, or the context where that is shorter."""
    return min(policy.reach + 1, loaded.context or policy.reach + 1)


def attempted(build: Callable[[], Way]) -> Way:
    """The way that `build` makes; where it cannot be made, one that says why when it is first run, as others do."""
    try:
        return build()
    except Exception as error:  # a model that the peer does not know, memory that does not suffice, …
        reason = error.with_traceback(None)  # which would hold on to what was made

    def run() -> None:
        raise reason

    return Way(run)
