"""Attention where a query sees a key in one of several forms: in full while it is recent, rounded afterwards.

Every form of a key is a key of its own, that some queries see and others do not; all go under one softmax. So a block
of queries computes what they would one by one, whichever keys change their form within it.

Shapes: B rows, H query heads, G key/value heads, T queries, S keys, D and E widths.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sinkctl.kernels.stream_attention.reference import per_query_head, scores, weights

TILE = 128  # queries at least
LARGEST = 512  # off the CPU, where a tile is bound by its launches,
SCORES = 1 << 27  # while a tile has no more of them
FOREVER = 1 << 62


class Form(NamedTuple):
    """Keys and values in one form; key i is there for the queries from number first_S[i] to last_S[i] of the stream."""

    k_BGSD: Tensor
    v_BGSE: Tensor
    number_S: Tensor  # each key's own, int64 on the CPU, as are the next two
    first_S: Tensor
    last_S: Tensor
    met_at: int | None = None  # queries meet them un-rotated, as if each of them had this number

    def seen(self, first: int, end: int) -> slice | None:
        """Those that a query of numbers first … end−1 sees, and those between them; None: there is none."""
        seen = ((self.first_S < end) & (self.last_S >= first) & (self.first_S <= self.last_S)).nonzero()[:, 0]
        return slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else None

    def most(self, queries: int) -> int:
        """About how many of them so many neighbouring queries see at most."""
        longest = int((self.last_S - self.first_S).max()) if len(self.first_S) else 0
        return min(len(self.first_S), max(0, longest) + queries)


def attention(
    q_BHTD: Tensor,
    unturned_BHTD: Tensor,
    forms: Sequence[Form],
    number: int,
    *,
    scale: float,
    sink_logit_H: Tensor | None = None,
    softcap: float | None = None,
    slope_H: Tensor | None = None,
    weigh: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Softmax over whatever form of each key a query sees, in tiles of queries; returns out_BHTE.

    The first query is number `number` of its stream; `unturned_BHTD` are the queries before their rotation, for forms
    met so. What the other arguments do: `kernels/stream_attention/reference.py` and `weighed.py`. A tile of
    queries costs the products with every form that one of them sees.
    """
    T, tiles, tile = q_BHTD.shape[2], [], _tile(q_BHTD, sum(form.most(LARGEST) for form in forms))
    # Numbers of keys travel, once a layer, and not maps: those cost a GPU more than all the rest.
    numbers = [torch.stack(form[2:5]).to(q_BHTD.device) for form in forms]
    for start in range(0, T, tile):
        here = slice(start, min(start + tile, T))
        first, end = number + here.start, number + here.stop
        parts = [(form, all_3S[:, own], own) for form, all_3S in zip(forms, numbers, strict=True)
                 if (own := form.seen(first, end)) is not None]  # fmt: skip
        number_T1 = torch.arange(first, end, device=q_BHTD.device)[:, None]
        score, seen = [], []
        for form, (number_S, first_S, last_S), own in parts:
            q = (q_BHTD if form.met_at is None else unturned_BHTD)[:, :, here]
            distance = None if slope_H is None else (number_T1 if form.met_at is None else form.met_at) - number_S
            score.append(scores(q, form.k_BGSD[:, :, own], scale, softcap, slope_H, distance))
            seen.append((first_S <= number_T1) & (number_T1 <= last_S))
        score_BHTS, seen_TS = torch.cat(score, dim=-1), torch.cat(seen, dim=-1)
        value_BHSE = per_query_head(torch.cat([form.v_BGSE[:, :, own] for form, _, own in parts], dim=2), q_BHTD)
        if weigh is not None:
            tiles.append(weigh(score_BHTS, seen_TS).to(value_BHSE.dtype) @ value_BHSE)
            continue
        score_BHTS = score_BHTS.masked_fill(~seen_TS, -torch.inf)
        weight_BHTS = weights(score_BHTS, sink_logit_H)[..., : value_BHSE.shape[2]]
        tiles.append((weight_BHTS @ value_BHSE.to(weight_BHTS.dtype)).to(q_BHTD.dtype))
    return torch.cat(tiles, dim=2)


def _tile(q_BHTD: Tensor, keys: int) -> int:
    """How many queries go at once over so many keys at most."""
    if q_BHTD.device.type == "cpu":
        return TILE
    return max(TILE, min(LARGEST, SCORES // max(1, q_BHTD.shape[0] * q_BHTD.shape[1] * keys)))
