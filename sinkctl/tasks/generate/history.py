"""What logits processors may ask of the ids that went through a model, in constant memory. B rows, V vocabulary."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    WatermarkLogitsProcessor,
)

# Tokens that stay known in their order: n-grams are told again when they are further back.
KEPT = 32_768
# Processors that look at ids in their order; of the others, RepetitionPenalty asks which ones there were at all.
ORDERED = (NoRepeatNGramLogitsProcessor, SequenceBiasLogitsProcessor, WatermarkLogitsProcessor)


class History:
    """Which ids each row had, the last of them, and how many there were."""

    def __init__(self, rows: int, device: torch.device, *, by_row: bool):
        """Without `by_row` only which ids there were is known: a step of it is of static shape."""
        self._by_row, self._device = by_row, device
        self._seen_BV: Tensor | None = None
        self._recent = [torch.zeros(0, dtype=torch.int64, device=device)] * rows
        self._lengths = [0] * rows
        self.prompts = [0] * rows  # of the lengths, up to the last text that was fed

    def feed(self, texts: Sequence[Tensor], width: int) -> None:
        """A text a row, [T] each; `width` is V."""
        if self._seen_BV is None:
            self._seen_BV = torch.zeros(len(texts), width, dtype=torch.bool, device=self._device)
        for row, text in enumerate(texts):
            text = text.to(self._device)
            self._seen_BV[row, text[text < width]] = True  # a model may read more ids than it can say
            self._append(row, text)
            self.prompts[row] = self._lengths[row]

    def step(self, ids_B: Tensor) -> None:
        """An id a row."""
        self._seen_BV.scatter_(1, ids_B[:, None], True)
        for row in range(len(ids_B) if self._by_row else 0):
            self._append(row, ids_B[row : row + 1])

    def ids(self, processor: LogitsProcessor, row: int | None = None) -> Tensor:
        """Ids that tell `processor` of all rows or of one what the whole text would tell it."""
        if isinstance(processor, RepetitionPenaltyLogitsProcessor):
            seen_BV = self._seen_BV if row is None else self._seen_BV[row : row + 1]
            any_B1 = seen_BV.to(torch.uint8).argmax(-1, keepdim=True)  # one that was there, in place of those not
            return torch.where(seen_BV, torch.arange(seen_BV.shape[1], device=self._device), any_B1)
        if row is None:
            return torch.zeros(1, 1, dtype=torch.int64, device=self._device).expand(len(self._seen_BV), 1)
        if isinstance(processor, ORDERED):
            return self._recent[row][None]
        return torch.zeros(1, 1, dtype=torch.int64, device=self._device).expand(1, self._lengths[row])  # only its shape

    def place(self) -> Tensor | None:
        """What `rewind` takes back steps to, where rows are not told apart."""
        return None if self._seen_BV is None else self._seen_BV.clone()

    def rewind(self, place: Tensor | None) -> None:
        """Forget the steps since `place`."""
        if place is not None:
            self._seen_BV.copy_(place)

    def state(self) -> dict[str, Any]:
        """Plain data that continues it."""
        seen = None if self._seen_BV is None else [row.nonzero()[:, 0].tolist() for row in self._seen_BV.cpu()]
        return {
            "seen": seen,
            "width": 0 if self._seen_BV is None else self._seen_BV.shape[1],
            "recent": [ids.tolist() for ids in self._recent],
            "lengths": list(self._lengths),
            "prompts": list(self.prompts),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken; in the same memory, which a captured step may hold."""
        self._recent = [torch.tensor(ids, dtype=torch.int64, device=self._device) for ids in state["recent"]]
        self._lengths, self.prompts = list(state["lengths"]), list(state["prompts"])
        if self._seen_BV is None and state["seen"] is not None:
            self._seen_BV = torch.zeros(len(self._lengths), state["width"], dtype=torch.bool, device=self._device)
        elif self._seen_BV is not None:
            self._seen_BV.zero_()
        for row, ids in enumerate(state["seen"] or ()):
            self._seen_BV[row, torch.tensor(ids, dtype=torch.int64, device=self._device)] = True

    def _append(self, row: int, ids_T: Tensor) -> None:
        self._lengths[row] += len(ids_T)
        if self._by_row:
            self._recent[row] = torch.cat([self._recent[row], ids_T])[-KEPT:]
