"""What the other processes of a model do while the first one scores or generates: the same passes, keeping nothing."""

from collections.abc import Iterable
from typing import Any, Protocol

from sinkctl.errors import Interrupted
from sinkctl.model.parallel import told


class Run(Protocol):
    """A pass over texts or tokens that can be continued."""

    def __iter__(self) -> Iterable[Any]: ...

    def state(self) -> Any: ...


def follow(run: Run) -> None:
    """Go through `run` with the first process, which says at every step whether a state is saved, and whether it stops.

    Each has its heads' part of a state. Raises Interrupted, said by the first, where it stops.
    """
    for _ in run:
        saving, stopped = told(2)
        if saving:
            run.state()
        if stopped:
            error = Interrupted("see the first process")
            error.said = True
            raise error
