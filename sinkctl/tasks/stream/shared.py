"""What all parts of a stream share, made once: settings, scorers, the tokenizer made ready."""

from dataclasses import dataclass
from functools import cached_property

from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.tasks.stream.scorers import Scorer, scorer_for
from sinkctl.tasks.stream.settle import Settled, settle
from sinkctl.text.tokens import Prepared, prepared


@dataclass
class Shared:
    """Of one recipe and model."""

    settled: Settled
    loaded: LoadedModel

    @classmethod
    def of(cls, recipe: StreamRecipe, loaded: LoadedModel) -> "Shared":
        """Raises what `settle` does."""
        return cls(settle(recipe, loaded), loaded)

    @cached_property
    def scorers(self) -> dict[str, Scorer]:
        """By the policies' labels."""
        recipe = self.settled.recipe
        size, bos = recipe.chunk if recipe.compile else None, self.settled.bos_id is not None
        return {each.label: scorer_for(self.loaded, each, bos=bos, compile_size=size) for each in recipe.policies}

    @cached_property
    def tokenizer(self) -> Prepared:
        return prepared(self.loaded.tokenizer)

    @property
    def fits(self) -> int:
        """Tokens of the longest text that may share a forward pass with others."""
        limits = [scorer.longest_beside for scorer in self.scorers.values()]
        return min([self.settled.recipe.chunk, *(limit for limit in limits if limit is not None)])
