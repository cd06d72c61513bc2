"""From logits to the next token: greedy, or drawn with temperature, top-k and top-p.

A draw needs one number in [0, 1) a row and step, taken from a generator of the row's own. So a row draws the same in
any batch, and on a GPU the whole choice can be part of a captured graph. B rows, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

# Draws made ahead, a row: they reach a GPU in one copy.
AHEAD = 1024


class Sampler:
    """Chooses the next token of every row; `Sampler(temperature=0, …)` is greedy."""

    def __init__(
        self, rows: int, device: torch.device, *, temperature: float, top_k: int | None, top_p: float, seed: int,
        never: Tensor | None = None,
    ):  # fmt: skip
        """Row i draws from a generator seeded with `seed` + i; the ids in `never` are not chosen."""
        self._never = never
        self.greedy = temperature == 0
        self._warpers = LogitsProcessorList()
        if not self.greedy and temperature != 1:
            self._warpers.append(TemperatureLogitsWarper(temperature))
        if not self.greedy and top_k is not None:
            self._warpers.append(TopKLogitsWarper(top_k))
        if not self.greedy and top_p < 1:
            self._warpers.append(TopPLogitsWarper(top_p))
        self._generators = [torch.Generator().manual_seed(seed + row) for row in range(rows)]
        self._draws = torch.zeros(AHEAD, rows, dtype=torch.float32 if device.type == "mps" else torch.float64)
        self._draws = self._draws.to(device)
        self._at = torch.zeros((), dtype=torch.int64, device=device)
        self._left = 0

    def prepare(self, steps: int) -> None:
        """Have draws for the next `steps` choices."""
        if self.greedy or self._left >= steps:
            return
        assert steps <= AHEAD
        fresh = [torch.rand(AHEAD - self._left, generator=g, dtype=torch.float64) for g in self._generators]
        kept = self._draws[AHEAD - self._left :].clone()
        self._draws.copy_(torch.cat([kept, torch.stack(fresh, 1).to(self._draws)]))
        self._at.zero_()
        self._left = AHEAD

    def count(self, steps: int) -> None:
        """Say that this many choices were made (on the device they count themselves)."""
        self._left -= 0 if self.greedy else steps

    def place(self) -> Tensor:
        """Where the draws stand."""
        return self._at.clone()

    def rewind(self, place: Tensor) -> None:
        """Take back the choices made since `place`."""
        self._at.copy_(place)

    def choose(self, logits_BV: Tensor) -> Tensor:
        """Token ids, [B]."""
        if self._never is not None:
            logits_BV = logits_BV.index_fill(-1, self._never, -torch.inf)
        if self.greedy:
            return logits_BV.argmax(-1)
        score_BV = self._warpers(None, logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32)))
        mass_BV = score_BV.softmax(-1).to(self._draws.dtype).cumsum(-1)
        draw_B = self._draws.index_select(0, self._at[None])[0]
        self._at.add_(1)
        # The first token whose cumulated probability exceeds the draw; those filtered out add nothing.
        return (mass_BV <= (draw_B[:, None] * mass_BV[:, -1:])).sum(-1).clamp(max=mass_BV.shape[-1] - 1)

    def state(self) -> dict[str, Any]:
        """What continues the draws."""
        return {
            "generators": [generator.get_state().tolist() for generator in self._generators],
            "draws": self._draws[AHEAD - self._left :].tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        for generator, held in zip(self._generators, state["generators"], strict=True):
            generator.set_state(torch.tensor(held, dtype=torch.uint8))
        self._left = len(state["draws"])
        if self._left:
            self._draws[AHEAD - self._left :] = torch.tensor(state["draws"], dtype=torch.float64).to(self._draws)
        self._at.fill_(AHEAD - self._left)
