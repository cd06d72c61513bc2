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


class SamplingSettings(_Settings):
    """How the next token is chosen; `auto` is what the checkpoint's generation_config.json says, greedy if nothing."""

    temperature: Annotated[float, Field(ge=0)] | Literal["auto"] = Field("auto", description="0 is greedy.")
    top_k: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        "auto", description="Draw among this many likeliest tokens."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = Field(
        "auto", description="Draw among the likeliest tokens that hold this much probability."
    )
    seed: int = Field(0, ge=0, lt=1 << 62, description="Row i of a batch draws with seed + i.")


class GenerateRecipe(_Settings):
    """Generate text past any context length, in constant memory."""

    task: Literal["generate"] = "generate"
    model: ModelSettings = ModelSettings()
    prompts: tuple[str, ...] = Field((), description="Texts to go on from, side by side; none: a BOS token.")
    prompt_files: tuple[str, ...] = Field((), description="Files that hold one each, or, as .jsonl, one a line.")
    field: str | None = Field(None, description="Field of a .jsonl record that holds the prompt (default: prompt).")
    bos: Literal["auto", "always", "never"] = Field(
        "auto", description="A BOS token in front: as the tokenizer does it, always, or never."
    )
    chat: bool = Field(False, description="Take turns with a user, in the model's chat template.")
    system: str | None = Field(None, description="System message of the chat.")
    tokens: Annotated[int, Field(ge=1)] | Literal["endless"] = Field(
        256, description="Tokens to generate, a row (in a chat: a turn at most)."
    )
    stop_at_eos: bool | Literal["auto"] = Field(
        "auto", description="Stop a row at an end-of-sequence token; auto: unless endless."
    )
    policy: AnyPolicy = Field(SinkWindow(), description="Cache policy.")
    sampling: SamplingSettings = SamplingSettings()
    chunk: Annotated[int, Field(ge=1)] | Literal["auto"] = Field("auto", description="Prompt tokens a forward takes.")
    graph: bool | Literal["auto"] = Field("auto", description="Capture a step as a CUDA graph; auto: on CUDA.")
    compile: bool | Literal["auto"] = Field(
        "auto", description="torch.compile the decoder layers; auto: where it pays."
    )
    fail_on: tuple[str, ...] = Field((), description="METRIC<=NUMBER or METRIC>=NUMBER; exit 1 where it fails.")


class LineSettings(_Settings):
    """The built-in questions: numbered lines after StreamEval (arXiv 2309.17453), made as they are read."""

    count: int = Field(1000, ge=1, description="Lines, of about 23 tokens each.")
    every: int = Field(10, ge=1, description="Ask after every so many lines.")
    back: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (20,), min_length=1, description="How many lines before the last one the answer stands; several take turns."
    )
    digits: int = Field(5, ge=1, le=18, description="Digits of the number to retrieve.")
    seed: int = Field(0, ge=0, description="Draws labels and numbers.")


class QuestionsRecipe(_Settings):
    """Ask about what stood some way back in a long text, and score the answers."""

    task: Literal["questions"] = "questions"
    model: ModelSettings = ModelSettings()
    questions: str = Field(
        "lines", description="A .jsonl file of texts and questions, - for standard input, or lines: the built-in set."
    )
    lines: LineSettings = Field(LineSettings(), description="The built-in set; a file needs none.")
    bos: Literal["auto", "always", "never"] = Field(
        "auto", description="A BOS token in front: as the tokenizer does it, always, or never."
    )
    policies: tuple[AnyPolicy, ...] = Field(
        (SinkWindow(),), min_length=1, description="Cache policies, asked the same questions."
    )
    answer_tokens: int = Field(
        16, ge=1, description="Tokens an answer may take; a longer accepted answer gets its own length, and two."
    )
    keep: bool = Field(
        False, description="Leave questions and answers in the stream, as in a chat; otherwise each is asked aside."
    )
    chunk: Annotated[int, Field(ge=1)] | Literal["auto"] = Field("auto", description="Tokens a forward pass takes.")
    limit: int | None = Field(None, ge=1, description="Stop before the text would exceed this many tokens.")
    graph: bool | Literal["auto"] = Field("auto", description="Capture a step as a CUDA graph; auto: on CUDA.")
    fail_on: tuple[str, ...] = Field((), description="METRIC<=NUMBER or METRIC>=NUMBER; exit 1 where it fails.")


Recipe = Annotated[StreamRecipe | GenerateRecipe | QuestionsRecipe, Field(discriminator="task")]
RECIPES: dict[str, type[_Settings]] = {"stream": StreamRecipe, "generate": GenerateRecipe, "questions": QuestionsRecipe}
