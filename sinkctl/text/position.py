"""Where a stream of tokens can be picked up again."""

import hashlib

from pydantic import BaseModel, ConfigDict, Field


class TextPosition(BaseModel):
    """The start of a block, with what reading must find there again; `model_dump` gives its JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: int = Field(0, ge=0, description="Index into the stream's files.")
    char: int = Field(0, ge=0, description="Characters of the file's text before the block.")
    guard: int = Field(0, ge=0, description="Of those, how many are tokenized again to the block's left.")
    byte: int = Field(0, ge=0, description="Byte of the block's first character (.jsonl: of its record's line).")
    line: int = Field(1, ge=1, description="1-based line of that byte.")
    read: int = Field(0, ge=0, description="Decompressed bytes that had been read when the block began.")
    sha256: str = Field(hashlib.sha256().hexdigest(), description="SHA-256 of those `read` bytes, in hex.")
