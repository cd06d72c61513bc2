"""Loading a model, with a word on the terminal while it takes."""

import logging
from contextlib import nullcontext

from rich.console import Console


def loaded_model(settings, words: Console, weights: bool = True):
    """The `LoadedModel` of a recipe's model settings; without `weights` as far as a plan needs it."""
    with words.status("loading", spinner="line") if words.is_terminal else nullcontext() as status:
        quiet_transformers()
        from sinkctl.model.load import load
        from sinkctl.result.versions import outside

        loaded = load(settings, say=lambda text: status and status.update(f"loading: {text}"), weights=weights)
    for line in outside():
        words.print(f"note: {line}", highlight=False, markup=False, soft_wrap=True)
    for note in loaded.notes:  # in a quiet run too: another tokenizer than expected is no progress
        Console(stderr=True).print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    return loaded


def quiet_transformers() -> None:
    """Keep transformers' warnings and bars off the terminal: what matters of them is in our own words.

    transformers imports torchao wherever it is installed, which says at each import what it was not built for.
    """
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as of_transformers

    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()
