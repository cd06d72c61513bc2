"""What a recipe may say. Importing this imports no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sinkctl.cache.policies import AnyPolicy, SinkWindow
from sinkctl.model.settings import ModelSettings


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextSettings(_Settings):
    """Which text, and how it is read."""

    files: tuple[str, ...] = Field((), description="Files, - for standard input; none: the built-in text.")
    field: str | None = Field(None, description="Field of a .jsonl record that holds the text (default: text).")
    errors: Literal["strict", "replace"] = Field("strict", description="What to do with bytes that are not UTF-8.")
    bos: Literal["auto", "always", "never"] = Field(
        "auto", description="A BOS token in front: as the tokenizer does it, always, or never."
    )
    bos_each_file: bool = Field(False, description="Put it in front of every file, not only of the first.")


class StreamRecipe(_Settings):
    """Score a text of any length in constant memory."""

    task: Literal["stream"] = "stream"
    model: ModelSettings = ModelSettings()
    text: TextSettings = TextSettings()
    policies: tuple[AnyPolicy, ...] = Field((SinkWindow(),), min_length=1, description="Cache policies, run together.")
    chunk: Annotated[int, Field(ge=1)] | Literal["auto"] = Field("auto", description="Tokens a forward pass takes.")
    compile: bool | Literal["auto"] = Field(
        "auto", description="torch.compile the decoder layers; auto: where it pays."
    )
    limit: int | None = Field(None, ge=1, description="Stop after this many text tokens.")
    fail_on: tuple[str, ...] = Field((), description="METRIC<=NUMBER or METRIC>=NUMBER; exit 1 where it fails.")


Recipe = Annotated[StreamRecipe, Field(discriminator="task")]
RECIPES: dict[str, type[_Settings]] = {"stream": StreamRecipe}
