"""Stream the text under every policy, and ask all of them the same questions at the same places."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sinkctl.errors import TextError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import QuestionsRecipe
from sinkctl.tasks.generate.ends import end_of_sequence
from sinkctl.tasks.questions.exact import first_line, is_exact
from sinkctl.tasks.questions.items import Item, Question
from sinkctl.tasks.questions.lane import Inside, Lane, inside
from sinkctl.tasks.questions.recall import Recall
from sinkctl.tasks.questions.settle import settle
from sinkctl.text import SpecialTokens

SLACK = 2  # tokens that an answer longer than `answer_tokens` gets on top: for what stands before it, and after


@dataclass(frozen=True)
class Answer:
    """What one policy answered to one question."""

    index: int  # of the question, from 0
    place: str
    back: str  # the question's group
    policy: str
    question: str
    expected: tuple[str, ...]
    given: str  # first line of what was generated
    correct: bool
    tokens_back: int | None  # between the end of the answer's text and the question; None: its text was not found
    inside: Inside  # whether the answer was still in the cache


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    tokens: int  # of text
    questions: int
    share: float | None  # of the whole, where that is known
    seconds: float
    exact: dict[str, float | None]  # by policy, share of its questions
    what: str = ""  # is under way before anything is asked


class QuestionsRun:
    """One pass over the text; iterate it for the answers after each item (mostly none)."""

    def __init__(self, recipe: QuestionsRecipe, loaded: LoadedModel):
        self.settled, self.loaded = settle(recipe, loaded), loaded
        self.recipe, self.choices = self.settled.recipe, dict(self.settled.choices)
        self._tokenizer, self._eos_ids = loaded.tokenizer, end_of_sequence(loaded)
        capacity = self._longest() if any(policy.grows for policy in self.recipe.policies) else None
        self.lanes = {policy.label: Lane(loaded, self.settled, policy, capacity) for policy in self.recipe.policies}
        self.special = SpecialTokens(loaded.tokenizer, loaded.rows, self.settled.bos_id)
        self._recall = Recall(self.settled.items.reach + 1)
        self._line_break, _ = self._encode("\n")
        self.tokens, self.asked, self.seconds = 0, 0, 0.0
        self.exact = dict.fromkeys(self.lanes, 0)

    def __iter__(self) -> Iterator[list[Answer]]:
        assert all(each.redistribute is None or each.redistribute.settled for each in self.recipe.policies)
        began = time.perf_counter()
        if self.settled.bos_id is not None:
            for lane in self.lanes.values():
                lane.take(np.array([self.settled.bos_id], np.int64))
        for item, ids_T, starts_T in self._within_limit():
            self.special.add(ids_T, None if self.tokens else self.settled.bos_id, item.place)
            if len(ids_T):
                self._recall.add(item.text, starts_T, [lane.place for lane in self.lanes.values()])
                for lane in self.lanes.values():
                    lane.take(ids_T)
                self.tokens += len(ids_T)
            answers = [] if item.question is None else self._ask(item.question, item.place)
            self.seconds = time.perf_counter() - began
            yield answers
        if not self.asked:
            limit = f"in the first {self.recipe.limit:,} tokens" if self.recipe.limit else "in it"
            raise TextError(f"{self.settled.source}: there is no question {limit}, so there is nothing to score")

    @property
    def progress(self) -> Progress:
        share = self.settled.items.share
        if self.recipe.limit is not None:
            share = max(share or 0.0, self.tokens / self.recipe.limit)
        exact = {label: exact / self.asked if self.asked else None for label, exact in self.exact.items()}
        return Progress(self.tokens, self.asked, share, self.seconds, exact)

    def _within_limit(self) -> Iterator[tuple[Item, np.ndarray, np.ndarray]]:
        """Items with the ids of their text and each id's first character, as far as the limit goes."""
        left = self.recipe.limit
        for item in self.settled.items:
            ids_T, starts_T = self._encode(item.text)
            if left is not None:
                left -= len(ids_T)
                if left < 0:
                    return
            yield item, ids_T, starts_T

    def _ask(self, question: Question, place: str) -> list[Answer]:
        if not self.tokens:
            raise TextError(f"{place}: a question before any text; put the text it is about in front")
        ids_T, _ = self._encode(question.text)
        if not len(ids_T):
            raise TextError(f"{place}: the tokenizer finds nothing in the question; write one in its characters")
        self.special.add(ids_T, None, place)
        spans = self._recall.find(question)
        limit = self._room(question)
        answers = []
        for number, (label, lane) in enumerate(self.lanes.items()):
            began, asked = lane.place, lane.place + len(ids_T) - 1
            text = self._tokenizer.decode(lane.ask(ids_T, limit, self._is_complete), skip_special_tokens=True)
            if self.recipe.keep and not text.endswith("\n"):
                lane.take(self._line_break)
            given = first_line(text)
            right = is_exact(given, question.answers)
            back, seen = None, "unknown"
            if spans is not None:
                first, end = spans[number]
                back, seen = began - end, inside(lane.kept, first, end, asked)
            self.exact[label] += right
            told = (place, question.group, label, question.text, question.answers, given, right, back, seen)
            answers.append(Answer(self.asked, *told))
        self.asked += 1
        return answers

    def _room(self, question: Question) -> int:
        """Tokens an answer may take."""
        longest = max(len(self._encode(answer)[0]) for answer in question.answers)
        asked = self.recipe.answer_tokens
        return asked if longest <= asked else longest + SLACK

    def _is_complete(self, ids: list[int]) -> bool:
        if ids[-1] in self._eos_ids:
            return True
        return "\n" in self._tokenizer.decode(ids, skip_special_tokens=True).lstrip()

    def _encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a text by itself, and the character each begins at."""
        out = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = np.array(out["input_ids"], np.int64)
        return ids, np.array(out["offset_mapping"], np.int64).reshape(-1, 2)[:, 0]

    def _longest(self) -> int:
        """Tokens that a stream may reach, for a cache that keeps them all: found by reading everything once before."""
        stream, most = self.settled.bos_id is not None, 0
        for item, ids_T, _ in self._within_limit():
            stream += len(ids_T)
            if item.question is not None:
                took = len(self._encode(item.question.text)[0]) + self._room(item.question) + 1
                stream, most = (stream + took, most) if self.recipe.keep else (stream, max(most, took))
        return stream + most + 1
