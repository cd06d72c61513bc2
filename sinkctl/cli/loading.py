"""Loading a model, with a word on the terminal while it takes."""

from contextlib import nullcontext

from rich.console import Console


def loaded_model(settings, words: Console):
    """The `LoadedModel` of a recipe's model settings."""
    with words.status("loading", spinner="line") if words.is_terminal else nullcontext():
        quiet_transformers()
        from sinkctl.api.shared import load

        return load(**settings.model_dump())


def quiet_transformers() -> None:
    """Keep transformers' warnings and bars off the terminal: what matters of them is in our own words."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
