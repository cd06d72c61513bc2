"""What a retrieval run is made of: pieces of text, with questions between them about what came before."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Question:
    """A question, the answers that count as right, and the group it is scored in."""

    text: str
    answers: tuple[str, ...]
    group: str = ""
    source: int | None = None  # how many texts back the answer stands (0: the last one); None: where it last occurs


@dataclass(frozen=True)
class Item:
    """A text that joins the stream, a question about the stream so far, or both, the text first."""

    place: str  # where people find it
    text: str = ""
    question: Question | None = None


class Items(Protocol):
    """Items one after the other, in memory that does not grow with their number; each iteration starts anew."""

    reach: int  # texts back that a question's `source` may name

    def __iter__(self) -> Iterator[Item]: ...

    @property
    def share(self) -> float | None:
        """Share of all items passed in the latest iteration; None where their number is unknown."""
