"""Token ids to text as they come: no half characters, and what was said is never taken back."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# A character is at most four bytes, a token at least one; past so many without one, what is there is said as it is.
PATIENCE = 8


class Spelling:
    """Spells one stream of ids. The ids of an unfinished character wait for the rest of it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = (), said: int | None = None):
        """`before`: ids already spelt, all but the last few of them where `said` counts fewer."""
        self._tokenizer = tokenizer
        self._ids = list(before)
        self._said = len(self._ids) if said is None else said  # of the ids held, those whose text is out

    def add(self, *new: int) -> str:
        """The text that the next ids complete; empty while a character is unfinished."""
        self._ids += new
        return self._say(self._whole())

    def rest(self) -> str:
        """What is left at the end."""
        return self._say(len(self._ids))

    def state(self) -> tuple[list[int], int]:
        """(`before`, `said`) of a Spelling that goes on from here."""
        return list(self._ids), self._said

    def _whole(self) -> int:
        """How many of the ids held do not end inside a character."""
        end = len(self._ids)
        for back in range(min(PATIENCE, end - self._said) + 1):
            if not self._text(end - back).endswith("\ufffd"):
                return end - back
        return self._said if end - self._said <= PATIENCE else end

    def _say(self, end: int) -> str:
        text = self._text(end)[len(self._text(self._said)) :]
        if text:  # the window starts where a piece did, so inside no character
            self._ids, self._said = self._ids[self._said :], end - self._said
        else:
            self._said = max(self._said, end)
        return text

    def _text(self, end: int) -> str:
        ids = self._ids[:end]
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
