"""Loading a model, with a word on the terminal while it takes."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

from rich.console import Console

from sinkctl.clock import phase
from sinkctl.errors import UsageError
from sinkctl.launched import first, processes


@contextmanager
def importing(device: str = "cpu") -> Iterator[None]:
    """For the imports of a task: what they make stays, and looking through it for garbage takes a fifth of the time.

    `device`: where its model will be, as the recipe says; what that takes to begin begins meanwhile.
    """
    from sinkctl.cuda_context import begin_context

    begin_context(device)
    gc.disable()
    try:
        with phase("importing"):
            yield
    finally:
        _freeze()
        gc.enable()


@cache
def _freeze() -> None:
    """Once: what is frozen, garbage too, is never let go. (To count it takes as long as to look through all of it.)"""
    gc.freeze()


def loaded_model(settings, words: Console, weights: bool = True):
    """The `LoadedModel` of a recipe's model settings; without `weights` as far as a plan needs it."""
    if settings.parallel is not None and not weights:
        raise UsageError("--dry-run: shows what one process does; leave --parallel out")
    with words.status("loading", spinner="line") if words.is_terminal else nullcontext() as status:
        with importing(settings.device):
            quiet_transformers()
            from sinkctl.model.load import load
            from sinkctl.model.placement import own_device
            from sinkctl.result.versions import outside

        loaded = load(
            own_device(settings), say=lambda text: status and status.update(f"loading: {text}"), weights=weights
        )
    if not first():  # of several processes the first one speaks
        return loaded
    for line in outside():
        words.print(f"note: {line}", highlight=False, markup=False, soft_wrap=True)
    for note in loaded.notes:  # in a quiet run too: another tokenizer than expected is no progress
        Console(stderr=True).print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    return loaded


def leave() -> None:
    """Take leave of the other processes, where there are any; NCCL asks for it."""
    if processes() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def quiet_transformers() -> None:
    """Keep transformers' warnings and bars off the terminal: what matters of them is in our own words.

    transformers imports torchao wherever it is installed, which says at each import what it was not built for.
    """
    for name in ("torchao", "torch.utils._pytree", "accelerate.big_modeling"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as of_transformers

    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()
