"""What a transformers mask function lets queries see."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sinkctl.errors import ModelError
from sinkctl.kernels.column_sums import Visible

# Farther than any trained window; from it on a window counts as none.
FAR = 1 << 20
PART = 1 << 16  # of it at once: what stays in the processor's cache takes a third of the time


def past_keys(mask_function: Callable) -> int | None:
    """How many past keys a mask lets a far query see; None for all of them; ModelError where it is no plain window."""
    widths, distance = set(), torch.arange(FAR).split(PART)
    for query in (1 << 24, (1 << 24) + 12_345):
        seen = torch.cat([mask_function(0, 0, torch.tensor(query), query - d).expand(len(d)) for d in distance])
        width = FAR if bool(seen.all()) else int(seen.logical_not().int().argmax())
        if bool(seen[width:].any()):
            raise ModelError("an attention mask of this model is no plain window")
        widths.add(width)
    if len(widths) > 1:
        raise ModelError("this model attends within fixed chunks of its input, not within a window")
    width = widths.pop()
    return None if width == FAR else width - 1


def visible(mask_function: Callable, tokens: int, device: torch.device, whole: bool = False) -> Visible:
    """The mask among so many tokens as a plain pattern where it is one, else as the function itself, tile by tile.

    Five queries tell: the first two see the future or not, the last two how far back, and whether that depends on
    the place, as it does in chunks. With `whole` all of them are asked, in T×T: an image may see itself both ways.
    """
    key_S = torch.arange(tokens, device=device)
    query_T1 = (
        key_S[:, None]
        if whole
        else key_S[sorted({q for q in (0, 1, tokens // 2, tokens - 2, tokens - 1) if 0 <= q < tokens}), None]
    )
    seen_TS = mask_function(0, 0, query_T1, key_S).expand(len(query_T1), tokens)
    distance_TS = query_T1 - key_S
    causal = not bool((seen_TS & (distance_TS < 0)).any())
    reach = int(distance_TS.abs().where(seen_TS, 0).max())
    pattern = Visible(causal, None if reach == tokens - 1 else reach)
    if torch.equal(pattern.mask(query_T1, key_S), seen_TS):
        return pattern
    if whole:
        return Visible(causal, also=partial(_looked_up, seen_TS))
    return Visible(causal, also=lambda query_T1, key_S: mask_function(0, 0, query_T1, key_S))


def _looked_up(seen_TS: Tensor, query_T1: Tensor, key_S: Tensor) -> Tensor:
    """Of places past the table, where a sample is shorter than another, nothing is seen."""
    last = len(seen_TS) - 1
    return seen_TS[query_T1.clamp(max=last), key_S.clamp(max=last)] & (query_T1 <= last) & (key_S <= last)
