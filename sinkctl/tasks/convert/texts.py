"""The tokens a start is computed from, and those that follow, which it is judged by."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sinkctl.errors import ModelError, TextError
from sinkctl.model.load import DEMO, LoadedModel
from sinkctl.recipe.base import TextFiles
from sinkctl.text import SpecialTokens, TokenStream


class Texts(NamedTuple):
    """Token ids, without special tokens."""

    calibration_T: Tensor
    held_out_T: Tensor
    rest_T: Tensor
    name: str
    notes: list[str]  # on special tokens in it


def read(
    settings: TextFiles, loaded: LoadedModel, calibration: int, held_out: int, least: int, whole: bool = False
) -> Texts:
    """The first `calibration` tokens and the next `held_out`, or as many of these as there are, `least` or more.

    With `whole` also the rest, which is empty otherwise.

    Raises TextError for a text that cannot be read or is too short, ModelError without a tokenizer.
    """
    if loaded.tokenizer is None:
        raise ModelError(f"{loaded.name} has no tokenizer, so no text can be read")
    files = settings.files or (str(DEMO / "text.txt"),)
    blocks, held = [np.empty(0, np.int64)], 0
    how = {"field": settings.field, "errors": settings.errors, "places": False}
    for block in TokenStream(files, loaded.tokenizer, **how):
        blocks.append(block.ids)
        held += len(block.ids)
        if held >= calibration + held_out and not whole:
            break
    every_T = torch.from_numpy(np.concatenate(blocks))
    ids_T, rest_T = every_T[: calibration + held_out], every_T[calibration + held_out :]
    if len(ids_T) < calibration + least:
        asked = f"{calibration:,} to calibrate on and {least:,} to judge by" if least else f"{calibration:,}"
        raise TextError(
            f"{', '.join(settings.files) or 'the built-in text'}: {len(ids_T):,} tokens, and it takes {asked}; give a "
            "longer text, or a smaller --window or fewer --samples"
        )
    name = ", ".join(Path(file).name for file in settings.files) or "the built-in novel"
    special = SpecialTokens(loaded.tokenizer, loaded.rows, None)
    special.add((every_T if whole else ids_T).numpy(), None, name)
    return Texts(ids_T[:calibration], ids_T[calibration:], rest_T if whole else rest_T[:0], name, special.notes())
