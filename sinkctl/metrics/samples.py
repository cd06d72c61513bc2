"""Samples of tokens, laid out in rows as a model takes them.

Shapes: N samples of at most T tokens; B rows of L columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["right", "left", "packed"]
# Of an encoder-decoder, what is looked at.
Part = Literal["encoder", "decoder", "cross-attention"]


@dataclass(frozen=True)
class Groups:
    """Kinds of keys, and the queries whose attention is shared out among them."""

    of_NS: Tensor  # int64: which kind a key is of, from 0
    count: int
    asking_NT: Tensor | None = None  # bool; None: all queries


@dataclass(frozen=True)
class Samples:
    """What a model is given, and where in it each sample stands."""

    inputs: dict[str, Tensor]  # input_ids, position_ids, attention_mask; or what a model takes besides text
    segment_BL: Tensor | None = None  # 1, 2, … for the samples of a row, 0 for padding; None: every row is a sample
    row_NT: Tensor | None = None  # where token t of sample n stands; None as well
    column_NT: Tensor | None = None
    real_NT: Tensor | None = None  # False past a sample's end
    part: Part | None = None  # whose inputs these are; None: the whole model's
    groups: Groups | None = None

    @property
    def shifted(self) -> bool:
        """Whether some sample does not begin with its row."""
        return self.column_NT is not None and bool((self.column_NT[:, 0] > 0).any())

    def apart(self, x_BL: Tensor, axis: int = 1) -> Tensor:
        """Per-token numbers of rows → of samples, [N, …, T, …] with 0 past the end; `axis` is that of the tokens."""
        if self.row_NT is None:
            return x_BL
        row_NT, column_NT, real_NT = (x.to(x_BL.device) for x in (self.row_NT, self.column_NT, self.real_NT))
        x_NT = x_BL.movedim(axis, 1)[row_NT, column_NT]
        shape = (*real_NT.shape, *[1] * (x_NT.dim() - 2))
        return x_NT.masked_fill(~real_NT.view(shape), 0).movedim(1, axis)

    def real(self, tokens: int, device: torch.device) -> Tensor:
        """Which tokens of the samples are there, bool [N, T]."""
        if self.real_NT is not None:
            return self.real_NT.to(device)
        return torch.ones(len(next(iter(self.inputs.values()))), tokens, dtype=torch.bool, device=device)


def laid_out(
    samples: Sequence[Tensor], device: torch.device, layout: Layout = "right", pad_id: int = 0, tokens: int = 0
) -> Samples:
    """Token ids of each sample → rows: padded at one end to the longest, or all in one row, one after the other.

    What is measured of them has room for `tokens` tokens a sample, or for as many as the longest has.
    """
    lengths = [len(ids) for ids in samples]
    tokens = max(tokens, *lengths)
    if layout == "packed":
        rows = [(0, sum(lengths[:number]), number + 1) for number in range(len(samples))]
        shape = (1, sum(lengths))
    else:
        longest = max(lengths)
        rows = [(n, longest - length if layout == "left" else 0, 1) for n, length in enumerate(lengths)]
        shape = (len(samples), longest)
    ids, position, segment = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long), torch.zeros(shape).long()
    row_NT, column_NT = torch.zeros(2, len(samples), tokens, dtype=torch.long)
    for number, (sample, (row, first, name)) in enumerate(zip(samples, rows, strict=True)):
        place = slice(first, first + len(sample))
        ids[row, place], position[row, place], segment[row, place] = sample, torch.arange(len(sample)), name
        row_NT[number, : len(sample)] = row
        column_NT[number, : len(sample)] = torch.arange(first, first + len(sample))
    inputs = {"input_ids": ids, "position_ids": position, "attention_mask": (segment > 0).long()}
    inputs = {name: x.to(device) for name, x in inputs.items()}
    if layout != "packed" and min(lengths) == tokens:
        return Samples(inputs)
    real_NT = torch.arange(tokens) < torch.tensor(lengths)[:, None]
    return Samples(inputs, segment.to(device), row_NT, column_NT, real_NT)
