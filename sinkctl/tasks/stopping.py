"""Asking whether to stop inside a forward pass, which may take a minute on a CPU, where a block takes a second."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from sinkctl.errors import Interrupted


def go_on(stop: Callable[[], bool]) -> None:
    """Raise Interrupted where `stop` says so."""
    if stop():
        raise Interrupted("stopped")


@contextmanager
def stoppable(model: nn.Module, stop: Callable[[], bool]) -> Iterator[None]:
    """Inside, every block of the model asks `stop` before it runs, and raises Interrupted where it says so."""
    blocks = [block for part in model.modules() if isinstance(part, nn.ModuleList) for block in part]
    with ExitStack() as hooks:
        for block in blocks:
            hooks.enter_context(block.register_forward_pre_hook(lambda *_: go_on(stop)))
        yield
