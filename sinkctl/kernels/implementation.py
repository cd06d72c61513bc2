"""A named way of computing an operator."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Implementation:
    """Called as the operator's `reference.py` is."""

    name: str
    run: Callable[..., Tensor]

    def __call__(self, *args, **kwargs) -> Tensor:
        return self.run(*args, **kwargs)
