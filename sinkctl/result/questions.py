"""The part of a result that only retrieval questions have."""

from typing import Literal

from pydantic import Field

from sinkctl.result.record import Record


class GroupScore(Record):
    """Questions of one group (lines back, in the built-in set) under one policy."""

    group: str = Field(description='What the questions call it; "" for those that name none.')
    asked: int
    exact: int
    inside: Literal["yes", "partly", "no", "unknown"] = Field(
        description="Whether the answers were still in the cache when asked; partly: some of them, or in part."
    )
    tokens_back: float | None = Field(description="Mean number of tokens between answer and question; null: not found.")


class Mistake(Record):
    """A wrong answer."""

    place: str
    question: str
    expected: list[str]
    given: str
    tokens_back: int | None


class PolicyAnswers(Record):
    """How one policy answered."""

    label: str
    kind: str
    settings: dict
    asked: int
    exact: int
    inside_asked: int = Field(description="Questions whose whole answer was still in the cache.")
    inside_exact: int
    outside_asked: int = Field(description="Questions whose answer had left the cache altogether.")
    outside_exact: int
    cache_tokens: int | None = Field(description="Largest number of tokens in the cache; null: grows with the text.")
    cache_bytes: int
    groups: list[GroupScore]
    mistakes: list[Mistake] = Field(description="The first wrong answers to what had not left the cache.")


class QuestionsDetail(Record):
    """Questions asked of one streamed text."""

    source: str
    questions: int
    tokens: int = Field(description="Text tokens streamed; what was asked and answered not counted.")
    bos: str
    chunk: int
    keep: bool = Field(description="Whether questions and answers stayed in the stream.")
    policies: list[PolicyAnswers]
