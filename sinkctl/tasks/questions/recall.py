"""Where in the stream an answer stands, from the latest texts."""

import re
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sinkctl.tasks.questions.items import Question

# Characters of text looked back through; an answer further back counts as not found.
KEPT = 1 << 22


class _Text(NamedTuple):
    text: str
    starts_T: np.ndarray  # first character of each token
    places: tuple[int, ...]  # of its first token, in each policy's stream


class Recall:
    """Holds the latest texts, at least the last `least` of them."""

    def __init__(self, least: int):
        self._least, self._texts, self._characters = least, deque(), 0

    def add(self, text: str, starts_T: np.ndarray, places: Sequence[int]) -> None:
        """A text that joins the streams at `places`."""
        self._texts.append(_Text(text, starts_T, tuple(places)))
        self._characters += len(text)
        while self._characters > KEPT and len(self._texts) > self._least:
            self._characters -= len(self._texts.popleft().text)

    def find(self, question: Question) -> list[tuple[int, int]] | None:
        """First token of the answer and the one after it, in each policy's stream; None where it does not occur."""
        pattern = re.compile("|".join(rf"(?<!\w){re.escape(answer)}(?!\w)" for answer in question.answers))
        if question.source is None:
            texts = reversed(self._texts)
        else:
            texts = (self._texts[-1 - question.source],)
        for held in texts:
            found = None
            for found in pattern.finditer(held.text):  # noqa: B007 (the last one counts)
                pass
            if found is not None:
                first = int(np.searchsorted(held.starts_T, found.start(), side="right")) - 1
                end = int(np.searchsorted(held.starts_T, found.end(), side="left"))
                return [(place + max(0, first), place + end) for place in held.places]
        return None
