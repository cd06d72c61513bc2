"""Where a text ends: at an id, or once one of a few strings stands at its end."""

from collections.abc import Sequence

import torch
from transformers import StopStringCriteria

from sinkctl.model.load import LoadedModel


def end_of_sequence(loaded: LoadedModel) -> frozenset[int]:
    """The ids that end a text, by the generation config and the tokenizer."""
    found = [loaded.model.generation_config.eos_token_id, loaded.tokenizer.eos_token_id]
    return frozenset(i for each in found if each is not None for i in (each if isinstance(each, list) else [each]))


class Ends:
    """Watches rows of text; false where nothing ends them."""

    def __init__(self, loaded: LoadedModel, eos_ids: frozenset[int], strings: Sequence[str], rows: int = 1):
        self._eos_ids = eos_ids
        self._strings = StopStringCriteria(loaded.tokenizer, list(strings)) if strings else None
        self.recent: list[list[int]] = [[] for _ in range(rows)]  # the last ids of each row, for the strings

    def __bool__(self) -> bool:
        return bool(self._eos_ids) or self._strings is not None

    def feed(self, row: int, ids: Sequence[int]) -> None:
        """The ids of a prompt, or the last of them."""
        if self._strings is not None:
            self.recent[row] = [*self.recent[row], *ids][-self._strings.maximum_token_len :]

    def at(self, row: int, new: int) -> bool:
        """Whether a row ends with this id, which comes next."""
        self.feed(row, [new])
        if new in self._eos_ids:
            return True
        return self._strings is not None and bool(self._strings(torch.tensor([self.recent[row]]), None))
