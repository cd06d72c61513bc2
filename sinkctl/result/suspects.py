"""The part of a measurement that speaks of trigger candidates."""

from pydantic import Field

from sinkctl.result.record import Record


class Suspect(Record):
    """One candidate, put into samples of text."""

    text: str
    tokens: int
    score: float = Field(description="Root mean square over layers of its z-scores, of the sign where it is largest;")
    limit: float = Field(description="the largest of random tokens, times the margin: above it is an alarm.")
    z: float = Field(description="The score among those of random tokens, in standard deviations.")
    sign: str = Field(description="What it is largest of.")
    by_sign: dict[str, float] = Field(description="Of each sign, the z-score of the layer where it is largest by size.")
    alarm: bool


class SuspectReport(Record):
    """All candidates, the most suspect first."""

    candidates: int
    random: int = Field(description="Random candidates of each length in tokens.")
    samples: int
    length: int = Field(description="Tokens a sample.")
    margin: float
    place: str
    suspects: list[Suspect]
