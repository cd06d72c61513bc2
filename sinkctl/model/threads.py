"""How many CPU threads a step of generation runs on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

# Multiplications of a step. Below, a product is too small to share; and where another process holds a core, threads
# that wait for each other have been seen to take fifty times as long.
WORTH_SHARING = 1e8


def one_thread(model: PreTrainedModel, rows: int) -> bool:
    """Whether steps of so many rows are better off on one thread."""
    return model.device.type == "cpu" and model.num_parameters() * rows < WORTH_SHARING


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread inside `with`, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
