"""The part of a result that only generation has."""

from typing import Literal

from pydantic import Field

from sinkctl.result.record import Record
from sinkctl.result.stream import MemorySample


class GeneratedRow(Record):
    """What one prompt became."""

    prompt_tokens: int
    tokens: int = Field(description="Tokens generated, an end-of-sequence token counted.")
    ended: Literal["end of sequence", "enough tokens", "stopped"]
    text: str = Field(description="The generated text, or its last 4,000 characters.")


class Pace(Record):
    """Seconds the first `tokens` of each row took, the prompts and the first token not counted."""

    tokens: int
    seconds: float


class GenerateDetail(Record):
    """Rows generated side by side."""

    policy: str
    cache_tokens: int | None = Field(description="Tokens the cache holds; null: all.")
    cache_bytes: int
    sampling: str
    bos: str
    prompt_seconds: float = Field(description="For all prompts, the first token included.")
    rows: list[GeneratedRow]
    pace: list[Pace]
    memory: list[MemorySample]
