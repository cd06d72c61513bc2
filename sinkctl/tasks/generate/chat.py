"""A conversation of any length: only what is new of a turn goes through the model, the cache keeps the rest."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from sinkctl.check.generate import check_text
from sinkctl.errors import ModelError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import GenerateRecipe
from sinkctl.tasks.generate.ends import Ends
from sinkctl.tasks.generate.generation import decoder_for
from sinkctl.tasks.generate.settle import settle
from sinkctl.tasks.generate.spelling import Spelling
from sinkctl.tasks.generate.template import Template
from sinkctl.text import SpecialTokens, check_ids

# Stands for a reply in a rendered template, to find what comes after one.
REPLY = "\u241areply\u241a"
ANCHOR = "a"  # stands for the end of a reply where a turn is encoded


class Conversation:
    """Takes turns with a user, in the model's chat template, under the recipe's cache policy."""

    def __init__(self, recipe: GenerateRecipe, loaded: LoadedModel):
        """Raises ModelError for a model without a chat template, or with one that cannot be taken turn by turn."""
        self.settled, self.loaded = settle(recipe, loaded), loaded
        self.recipe = self.settled.recipe
        self.template = Template(loaded, self.recipe.template_args)
        self.ends = Ends(loaded, self.settled.eos_ids, self.settled.stop_strings)
        if self.recipe.tokens == "endless" and not self.ends:
            raise UsageError(f"{loaded.name} knows no end of a turn; give --generate a number of tokens a turn")
        self.decoder = decoder_for(loaded, self.recipe.policy, self.recipe, rows=1)
        self._anchor = self.template.ids(ANCHOR)
        self._system = [] if self.recipe.system is None else [{"role": "system", "content": self.recipe.system}]
        self._unfed: list[int] | None = []  # what the last reply ended in, before the first turn None
        self._encoded("?")  # a template that cannot be taken turn by turn says so here
        self._unfed = None
        self.tokens = 0  # in the last reply
        self.notes: list[str] = []  # on what the user said last

    def say(self, text: str, stop: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """The reply to `text`, in pieces as it comes; `stop` is asked after every token."""
        ids = torch.tensor([*(self._unfed or []), *self._encoded(text)])
        special = SpecialTokens(self.loaded.tokenizer, self.loaded.rows, None)
        special.add(np.array(self.loaded.tokenizer(text, add_special_tokens=False).input_ids, np.int64), None, "it")
        self.notes = special.notes()
        limit = None if self.recipe.tokens == "endless" else self.recipe.tokens
        self.ends.recent = [ids.tolist()]
        new = int(self.decoder.feed([ids], self.recipe.chunk))
        spelling, self.tokens = Spelling(self.loaded.tokenizer), 1
        while True:
            # The last token of a reply has not gone through the model: an end of sequence is part of the template.
            self._unfed, ended = [] if new in self.settled.eos_ids else [new], self.ends.at(0, new)
            if not self._unfed:
                break
            yield spelling.add(new)
            if ended or stop() or (limit is not None and self.tokens >= limit):
                break
            new = int(self.decoder.step())
            self.tokens += 1
        yield spelling.rest()

    def _encoded(self, text: str) -> list[int]:
        """The ids of a user's turn, from the end of the reply before it to where the next one starts."""
        check_text(text)
        ids = self._ids(self._turn(text, after_reply=self._unfed is not None))
        check_ids(self.loaded.tokenizer, np.array(ids, np.int64), self.loaded.rows, "a turn")
        return ids

    def _ids(self, turn: str) -> list[int]:
        if self._unfed is None:
            return self.template.ids(turn)
        # Some tokenizers put a space in front of a text; what goes on from a reply is none.
        ids, anchor = self.template.ids(ANCHOR + turn), self._anchor
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else self.template.ids(turn)

    def _turn(self, text: str, after_reply: bool) -> str:
        turn = [{"role": "user", "content": text}]
        if not after_reply:
            return self.template.rendered([*self._system, *turn])
        before = [{"role": "user", "content": "."}, {"role": "assistant", "content": REPLY}]
        _, found, rendered = self.template.rendered([*self._system, *before, *turn]).partition(REPLY)
        if not found:
            raise ModelError(f"the chat template of {self.loaded.name} does not show replies, so it takes no turns")
        return rendered
