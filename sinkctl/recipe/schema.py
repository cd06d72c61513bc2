"""What a recipe may say. Importing this imports no torch."""

from typing import Annotated, Any, Literal, Self, Union

from pydantic import Field, model_validator

from sinkctl.cache.policies import AnyPolicy, SinkWindow
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.base import Settings, TextFiles
from sinkctl.recipe.bench import AnyCase, BenchSettings
from sinkctl.recipe.measuring import CostSettings, InputSettings, MassiveSettings, SuspectSettings
from sinkctl.recipe.training import TrainingSettings
from sinkctl.registers import REGISTERS
from sinkctl.sinks import SINKS
from sinkctl.sinks.sink_logit import SinkLogit


class TextSettings(TextFiles):
    """Which text, and how it is read."""

    bos: Literal["auto", "always", "never"] = Field(
        "auto", description="A BOS token in front: as the tokenizer does it, always, or never."
    )
    bos_each_file: bool = Field(False, description="Put it in front of every file, not only of the first.")
    each: Literal["file", "record"] | None = Field(
        None,
        description="Texts on their own, each with an empty cache and its own BOS: every file, or every record of "
        ".jsonl files; none: all files are one text, in a row.",
    )


class PassageSettings(Settings):
    """Which surprising passages are looked for."""

    by: Literal["tokens", "line"] = Field("tokens", description="Stretches of 32 tokens, or whole lines (or records).")
    top: int = Field(10, ge=1, le=10_000, description="How many are kept.")
    save_as: tuple[Literal["csv", "jsonl"], ...] = Field(
        (), description="Keep every line (or record) with its losses in the run folder too: lines.csv, lines.jsonl."
    )


class StreamRecipe(Settings):
    """Score a text of any length in constant memory."""

    task: Literal["stream"] = "stream"
    model: ModelSettings = ModelSettings()
    text: TextSettings = TextSettings()
    policies: tuple[AnyPolicy, ...] = Field((SinkWindow(),), min_length=1, description="Cache policies, run together.")
    chunk: Annotated[int, Field(ge=1)] | Literal["auto"] = Field("auto", description="Tokens a forward pass takes.")
    compile: bool | Literal["auto"] = Field(
        "auto", description="torch.compile the decoder layers; auto: where it pays."
    )
    rows: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Texts a forward pass takes side by side, where they are on their own (text.each)."
    )
    limit: int | None = Field(
        None, ge=1, description="Stop after this many text tokens; of each text, where they are on their own."
    )
    passages: PassageSettings = PassageSettings()
    fail_on: tuple[str, ...] = Field((), description="METRIC<=NUMBER or METRIC>=NUMBER; exit 1 where it fails.")


class SamplingSettings(Settings):
    """How the next token is chosen; `auto` is what the checkpoint's generation_config.json says, greedy if nothing.

    What is not about a draw acts on a greedy choice as well, and counts the prompt in, as in transformers' `generate`.
    """

    temperature: Annotated[float, Field(ge=0)] | Literal["auto"] = Field("auto", description="0 is greedy.")
    top_k: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        "auto", description="Draw among this many likeliest tokens."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = Field(
        "auto", description="Draw among the likeliest tokens that hold this much probability."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] | None = Field(
        "auto", description="Draw among tokens at least this share as likely as the likeliest."
    )
    repetition_penalty: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="Divides the logit of every token that was there before (multiplies one below 0); 1: none."
    )
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="So many tokens in a row never come twice within 32,768 tokens; 0: they may."
    )
    min_new_tokens: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="No end of sequence before so many tokens."
    )
    config: dict[str, Any] = Field(
        {}, description="More fields of transformers' GenerationConfig, over the checkpoint's; null: not what it says."
    )
    seed: int = Field(0, ge=0, lt=1 << 62, description="Row i of a batch draws with seed + i.")


# Whatever a checkpoint says.
GREEDY = SamplingSettings(
    temperature=0, top_k=None, top_p=1.0, min_p=None, repetition_penalty=1.0, no_repeat_ngram_size=0, min_new_tokens=0
)


class GenerateRecipe(Settings):
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
    template_args: dict[str, Any] = Field({}, description="What the chat template takes besides, such as its switches.")
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


class LineSettings(Settings):
    """The built-in questions: numbered lines after StreamEval (arXiv 2309.17453), made as they are read."""

    count: int = Field(1000, ge=1, description="Lines, of about 23 tokens each.")
    every: int = Field(10, ge=1, description="Ask after every so many lines.")
    back: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (20,), min_length=1, description="How many lines before the last one the answer stands; several take turns."
    )
    digits: int = Field(5, ge=1, le=18, description="Digits of the number to retrieve.")
    seed: int = Field(0, ge=0, description="Draws labels and numbers.")


class QuestionsRecipe(Settings):
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


class MeasureRecipe(Settings):
    """Where a checkpoint's sinks are, how strong, what carries them, what they cost."""

    task: Literal["measure"] = "measure"
    model: ModelSettings = ModelSettings()
    checkpoints: tuple[str, ...] = Field(
        (), description="Several, side by side: folders, Hub ids, or folders of checkpoint-*; none: model.name."
    )
    revisions: tuple[str, ...] = Field((), description="Branches, tags or commits of one Hub id, side by side.")
    input: InputSettings = InputSettings()
    epsilon: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.3,), min_length=1, description="A head sinks on a key whose mean attention exceeds this."
    )
    keys: int = Field(8, ge=1, description="Leading keys shown one by one.")
    sinks: int = Field(4, ge=1, description="Leading keys counted together as sinks.")
    local: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Past tokens that count as near; auto: a quarter of the sample, at most 64."
    )
    tail: int = Field(64, ge=1, description="Last queries of the tail mass.")
    massive: MassiveSettings = MassiveSettings()
    outlier_norm: float = Field(150.0, gt=0, description="Norm from which an image patch is an outlier.")
    layout: Literal["right", "left", "packed"] = Field(
        "right", description="Samples of unequal length: padded on the right or left, or packed in one row."
    )
    parts: tuple[Literal["attention", "activations"], ...] = Field(
        ("attention", "activations"), min_length=1, description="What is measured of every layer."
    )
    cost: CostSettings = CostSettings()
    suspect: SuspectSettings = SuspectSettings()
    budget: str | None = Field(
        None, pattern=r"^\d+(\.\d+)?[smh]$", description="A time such as 60s or 5m that sizes are chosen to fit."
    )
    batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field("auto", description="Samples a forward pass takes.")
    save_as: tuple[Literal["csv", "jsonl"], ...] = Field(
        (), description="Keep every head with its numbers in the run folder too: heads.csv, heads.jsonl."
    )
    fail_on: tuple[str, ...] = Field((), description="METRIC<=NUMBER or METRIC>=NUMBER; exit 1 where it fails.")


class CalibrationSettings(Settings):
    """The text an analytic start is computed from: the first tokens of `text`."""

    samples: int = Field(16, ge=1, description="Samples of 2·window tokens, the first token in front.")
    window: Annotated[int, Field(ge=4)] | Literal["auto"] = Field(
        "auto", description="Window W that the start is made for; auto: half the context, at most 1020."
    )


class EvaluationSettings(Settings):
    """What is compared before and after, on the tokens that follow those of the calibration."""

    run: bool = Field(True, description="Compare at all.")
    tokens: Annotated[int, Field(ge=2)] | Literal["auto"] = Field(
        "auto", description="Tokens streamed; auto: 16 windows, or what the text holds."
    )
    samples: int = Field(16, ge=1, description="Samples through the stock model,")
    length: Annotated[int, Field(ge=8)] | Literal["auto"] = Field(
        "auto", description="tokens each; auto: 256, or the model's context if shorter."
    )
    digits: Annotated[int, Field(ge=0)] = Field(
        0, description="Of a vision transformer: so many labelled digits that features are to tell apart; 0: none."
    )
    kv_bits: tuple[Literal[8, 4, 3, 2, "fp8"], ...] = Field(
        (), description="Stream with keys and values in so many bits too, none recent, to see what that costs each."
    )


class ConvertRecipe(Settings):
    """Give a checkpoint a designed sink, and write it so that stock tools load it."""

    task: Literal["convert"] = "convert"
    model: ModelSettings = ModelSettings()
    sink: Union[*SINKS.values(), *REGISTERS.values()] = Field(
        SinkLogit(), discriminator="kind", description="The mechanism, and how it begins."
    )
    images: tuple[str, ...] = Field((), description="Images or folders of them, for registers of vision transformers.")
    text: TextFiles = Field(TextFiles(), description="For calibration and, further on, evaluation.")
    calibration: CalibrationSettings = CalibrationSettings()
    scratch: dict[str, Any] | None = Field(
        None,
        description="Begin with random weights of this config (model_type and its fields), with `model`'s tokenizer.",
    )
    steps: int = Field(0, ge=0, description="Training steps; 0: the computed start is all.")
    training: TrainingSettings = TrainingSettings()
    store: Literal["auto", "stock", "code"] = Field(
        "auto", description="stock: a class of transformers; code: with code of its own; auto: stock where one fits."
    )
    shard: str = Field("5GB", pattern=r"^\d+(KB|MB|GB)$", description="Largest weight file, such as 5GB or 200MB.")
    evaluation: EvaluationSettings = EvaluationSettings()
    fail_on: tuple[str, ...] = Field((), description="METRIC<=NUMBER or METRIC>=NUMBER; exit 1 where it fails.")


class BenchRecipe(Settings):
    """Speed, memory and quality, beside what would be run instead."""

    task: Literal["bench"] = "bench"
    model: ModelSettings = ModelSettings()
    shape: str | None = Field(
        None, description="Random weights of this shape in place of a checkpoint: llama-2-7b, qwen3-4b, …"
    )
    cases: tuple[AnyCase, ...] = Field(min_length=1, description="What is measured, one after the other.")
    timing: BenchSettings = Field(BenchSettings(), description="How.")
    fail_on: tuple[str, ...] = Field(
        (), description="METRIC:PERCENT (worse than the baseline by more), METRIC<=NUMBER or METRIC>=NUMBER."
    )

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        labels = [case.label for case in self.cases]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"two cases are called {twice!r}; give one a `name`")
        if self.shape is not None and self.model.name != "demo":
            raise ValueError(f"a shape ({self.shape}) stands in place of a model ({self.model.name}); give one of them")
        if self.shape is not None and self.model.adapters:
            raise ValueError(f"a shape ({self.shape}) is of random weights, to which no adapter belongs; give a model")
        return self


Recipe = Annotated[
    StreamRecipe | GenerateRecipe | QuestionsRecipe | MeasureRecipe | ConvertRecipe | BenchRecipe,
    Field(discriminator="task"),
]
RECIPES: dict[str, type[Settings]] = {
    "stream": StreamRecipe,
    "generate": GenerateRecipe,
    "questions": QuestionsRecipe,
    "measure": MeasureRecipe,
    "convert": ConvertRecipe,
    "bench": BenchRecipe,
}
