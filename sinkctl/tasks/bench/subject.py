"""What is benchmarked: a checkpoint, or random weights of a known shape; and tokens to run through it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sinkctl.errors import ModelError
from sinkctl.model.load import DEMO, LoadedModel, chosen_device, load
from sinkctl.model.shapes import built
from sinkctl.recipe.bench import AnyCase
from sinkctl.recipe.schema import BenchRecipe


@contextmanager
def in_words_of(case: AnyCase) -> Iterator[None]:
    """Inside, what is said of a flag of one stream is said of the case's setting."""
    try:
        yield
    except ModelError as error:
        if not str(error).startswith("--kv-keep"):
            raise
        raise ModelError(f"{case.label}: {str(error).replace('--kv-keep', 'kv_keep', 1)}") from error


@dataclass
class Subject:
    """The model of a recipe, loaded when a case first asks for it."""

    recipe: BenchRecipe
    told: Callable[[str, float], None] = lambda what, share: None  # of what is under way, and the share of it done
    kept: dict[str, Any] = field(default_factory=dict)  # what the sizes of a case share

    @cached_property
    def loaded(self) -> LoadedModel:
        settings = self.recipe.model
        if self.recipe.shape is None:
            return load(settings)
        return built(self.recipe.shape, settings, self.recipe.timing.seed)

    @cached_property
    def device(self) -> torch.device:
        """Where cases without a model run too."""
        return chosen_device(self.recipe.model.device, {})

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of cases without a model: as asked; auto: float32 on a CPU, else bfloat16."""
        asked = self.recipe.model.dtype
        if asked != "auto":
            return getattr(torch, asked)
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, the first time that the key is asked for."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def ids(self, tokens: int, skip: int = 0) -> Tensor:
        """Token ids, int64 [tokens], on the CPU: the built-in text, over again where it ends; random without one."""
        if self.loaded.tokenizer is None:
            draw = torch.Generator().manual_seed(self.recipe.timing.seed + skip)
            return torch.randint(3, self.loaded.model.config.get_text_config().vocab_size, (tokens,), generator=draw)
        text = self._text
        return text[(skip + torch.arange(tokens)) % len(text)]

    @cached_property
    def _text(self) -> Tensor:
        text = (DEMO / "text.txt").read_text(encoding="utf-8")
        return torch.tensor(self.loaded.tokenizer(text).input_ids)
