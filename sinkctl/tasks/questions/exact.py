"""Exact match: what counts as a right answer."""

from collections.abc import Sequence


def first_line(text: str) -> str:
    """What is scored of a generated text: its first line that is not blank, without space around."""
    return text.strip().split("\n", 1)[0].rstrip()


def is_exact(given: str, accepted: Sequence[str]) -> bool:
    """Whether `given` begins with an accepted answer and does not go on with another letter or digit.

    Case and all count: "10536>." is right where "10536" is accepted, "105361" and "it is 10536" are not.
    """
    return any(given.startswith(answer) and not given[len(answer) : len(answer) + 1].isalnum() for answer in accepted)
