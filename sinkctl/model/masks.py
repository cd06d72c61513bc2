"""What a transformers mask function lets queries see."""

from collections.abc import Callable

import torch

from sinkctl.errors import ModelError
from sinkctl.kernels.column_sums import Visible

# Farther than any trained window; beyond it a window counts as none.
FAR = 1 << 20
_PROBED = ((1 << 24), (1 << 24) + 12_345)


def past_keys(mask_function: Callable) -> int | None:
    """How many past keys a causal mask lets a far query see; None for all of them; ModelError where that depends."""
    width = _reach(mask_function, -1)
    return None if width == FAR else width - 1


def visible(mask_function: Callable) -> Visible:
    """The mask as a plain pattern where it is one, else as the function itself, asked tile by tile."""
    query = torch.tensor(_PROBED[0])
    causal = not bool(mask_function(0, 0, query, query + 1))
    try:
        past = _reach(mask_function, -1)
        if causal or past == _reach(mask_function, 1):
            return Visible(causal, None if past == FAR else past - 1)
    except ModelError:
        pass
    return Visible(causal, also=lambda query_T1, key_S: mask_function(0, 0, query_T1, key_S))


def _reach(mask_function: Callable, side: int) -> int:
    """Keys that far queries see on one side, themselves included."""
    widths = set()
    for query in _PROBED:
        distance = torch.arange(FAR)
        seen = mask_function(0, 0, torch.tensor(query), query + side * distance).expand(FAR)
        width = FAR if bool(seen.all()) else int(seen.logical_not().int().argmax())
        if bool(seen[width:].any()):
            raise ModelError("an attention mask of this model is no plain window")
        widths.add(width)
    if len(widths) > 1:
        raise ModelError("this model attends within fixed chunks of its input, not within a window")
    return widths.pop()
