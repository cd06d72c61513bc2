"""Token ids to text as they come: no half characters, and what was said is never taken back."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# A character is at most four bytes; past so many tokens without one, what is there is said as it is.
PATIENCE = 8


class Spelling:
    """Spells one stream of ids. A piece of text waits until it does not end inside a character."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()):
        """`before`: the last ids before the first that is spelt, which decide about a space in front of it."""
        self._tokenizer = tokenizer
        self._ids = list(before)[-PATIENCE:]
        self._said = len(self._ids)  # of the ids held, those whose text is out

    def add(self, *new: int) -> str:
        """The text that the next ids complete; empty while a character is unfinished."""
        self._ids += new
        return self._say(last=len(self._ids) - self._said > PATIENCE)

    def rest(self) -> str:
        """What is left at the end."""
        return self._say(last=True)

    def _say(self, last: bool) -> str:
        text, before = self._text(self._ids), self._text(self._ids[: self._said])
        if text.endswith("\ufffd") and not last:
            return ""
        self._ids = self._ids[-PATIENCE:]
        self._said = len(self._ids)
        return text[len(before) :]

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
