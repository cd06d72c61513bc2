"""From logits to the next token: greedy, or drawn, after transformers' own logits processors.

A draw needs one number in [0, 1) a row and step, taken from a generator of the row's own. So a row draws the same in
any batch, and on a GPU the whole choice can be part of a captured graph. B rows, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor

from sinkctl.model.generation_config import stock_processors
from sinkctl.model.generation_fields import MORE_WARPERS, PROCESSORS, WARPERS
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import GenerateRecipe, SamplingSettings
from sinkctl.tasks.generate.ends import end_of_sequence
from sinkctl.tasks.generate.history import History

# Draws made ahead, a row: they reach a GPU in one copy.
AHEAD = 1024
ENDING = {"stop_strings"}  # fields without a processor
# Fields whose processors take all rows at once and never ask the host, so that they can be captured.
STATIC = {"do_sample", *WARPERS, "repetition_penalty", "renormalize_logits"}


class Sampler:
    """Chooses the next token of every row."""

    def __init__(
        self,
        rows: int,
        device: torch.device,
        processors: Callable[[int], Sequence[LogitsProcessor]] = lambda prompt: (),
        *,
        greedy: bool = False,
        seed: int = 0,
        static: bool = True,
        never: Sequence[int] = (),
    ):
        """`processors` are made for a text after so many tokens: for each row its own, unless they are `static`.

        Row i draws from a generator seeded with `seed` + i; the ids in `never` are not chosen.
        """
        self._never = torch.tensor(never, device=device) if never else None
        self.greedy, self.static = greedy, static
        self._make, self._shared = processors, list(processors(1)) if static else []
        self._own: list[Sequence[LogitsProcessor]] = [()] * rows
        asks = not static or any(isinstance(each, RepetitionPenaltyLogitsProcessor) for each in self._shared)
        self._history = History(rows, device, by_row=not static) if asks else None
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

    def place(self) -> tuple[Tensor, Tensor | None]:
        """Where the draws and the ids stand; of `static` processors."""
        return self._at.clone(), None if self._history is None else self._history.place()

    def rewind(self, place: tuple[Tensor, Tensor | None]) -> None:
        """Take back the choices made since `place`."""
        self._at.copy_(place[0])
        if self._history is not None:
            self._history.rewind(place[1])

    def choose(self, logits_BV: Tensor, fed: Tensor | Sequence[Tensor] = ()) -> Tensor:
        """Token ids, [B], after the ids that were `fed` since the last choice: one a row, [B], or a text a row."""
        if self._never is not None:
            logits_BV = logits_BV.index_fill(-1, self._never, -torch.inf)
        score_BV = self.scores(logits_BV, fed)
        if self.greedy:
            return score_BV.argmax(-1)
        mass_BV = score_BV.softmax(-1).to(self._draws.dtype).cumsum(-1)
        draw_B = self._draws.index_select(0, self._at[None])[0]
        self._at.add_(1)
        # The first token whose cumulated probability exceeds the draw; those filtered out add nothing.
        return (mass_BV <= (draw_B[:, None] * mass_BV[:, -1:])).sum(-1).clamp(max=mass_BV.shape[-1] - 1)

    def scores(self, logits_BV: Tensor, fed: Tensor | Sequence[Tensor]) -> Tensor:
        """What is chosen from, [B, V]: `generate()`'s scores, in float32 or what the logits have above it."""
        if self.greedy and self.static and not self._shared:
            return logits_BV
        score_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
        if self._history is None:
            for processor in self._shared:
                score_BV = processor(None, score_BV)
            return score_BV
        self._read(fed, logits_BV.shape[-1])
        if self.static:
            return self._processed(score_BV, self._shared)
        return torch.cat([self._processed(score_BV[row : row + 1], own, row) for row, own in enumerate(self._own)])

    def _read(self, fed: Tensor | Sequence[Tensor], width: int) -> None:
        if isinstance(fed, Tensor):
            self._history.step(fed)
        else:
            self._history.feed(fed, width)
            self._begin()

    def _begin(self) -> None:
        """Processors that count from the end of each row's prompt."""
        if not self.static:
            self._own = [self._make(prompt) for prompt in self._history.prompts]

    def _processed(self, score_BV: Tensor, processors: Sequence[LogitsProcessor], row: int | None = None) -> Tensor:
        for processor in processors:
            score_BV = processor(self._history.ids(processor, row), score_BV)
        return score_BV

    def state(self) -> dict[str, Any]:
        """What continues the draws."""
        return {
            "generators": [generator.get_state().tolist() for generator in self._generators],
            "draws": self._draws[AHEAD - self._left :].tolist(),
            "history": None if self._history is None else self._history.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        for generator, held in zip(self._generators, state["generators"], strict=True):
            generator.set_state(torch.tensor(held, dtype=torch.uint8))
        self._left = len(state["draws"])
        if self._left:
            self._draws[AHEAD - self._left :] = torch.tensor(state["draws"], dtype=torch.float64).to(self._draws)
        self._at.fill_(AHEAD - self._left)
        if self._history is not None:
            self._history.restore(state["history"])
            self._begin()


def sampler_for(recipe: GenerateRecipe, rows: int, loaded: LoadedModel) -> Sampler:
    """The sampler of a settled recipe; ValueError for a field that the model's processors do not take."""
    fields, eos_ids = processor_fields(recipe.sampling), end_of_sequence(loaded)
    limit = None if recipe.tokens == "endless" else recipe.tokens

    def processors(prompt: int) -> list[LogitsProcessor]:
        return stock_processors(loaded.model, fields, prompt, limit, eos_ids)

    return Sampler(
        rows, loaded.device, processors, greedy=not fields["do_sample"], seed=recipe.sampling.seed,
        static=not fields.keys() - STATIC, never=loaded.without_text,
    )  # fmt: skip


def processor_fields(sampling: SamplingSettings) -> dict[str, Any]:
    """Settled settings as fields of a generation config, without those that do nothing."""
    drawn = sampling.temperature != 0
    kept = PROCESSORS | (WARPERS if drawn else {})
    fields = {name: getattr(sampling, name) for name, idle in kept.items() if getattr(sampling, name) != idle}
    more = {
        name: value for name, value in sampling.config.items() if value is not None and name not in ENDING
        and (drawn or name not in MORE_WARPERS)
    }  # fmt: skip
    return {"do_sample": drawn, **fields, **more}
