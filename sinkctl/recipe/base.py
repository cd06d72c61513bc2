"""What settings of every kind share. Importing this imports no torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TextFiles(Settings):
    """Which text."""

    files: tuple[str, ...] = Field((), description="Files, - for standard input; none: the built-in text.")
    field: str | None = Field(None, description="Field of a .jsonl record that holds the text (default: text).")
    errors: Literal["strict", "replace"] = Field("strict", description="What to do with bytes that are not UTF-8.")
