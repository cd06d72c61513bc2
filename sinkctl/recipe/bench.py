"""What a recipe says of benchmarks: one class a case. Importing this imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from sinkctl.cache.precision.settings import KEEP
from sinkctl.recipe.base import Settings

Count = Annotated[int, Field(ge=1)]
Sinks = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class CaseSettings(Settings):
    """What every case has."""

    name: Name | None = Field(
        None, description="What its numbers are called, in letters, digits, - and _; none: its kind."
    )

    @property
    def label(self) -> str:
        return self.name or self.kind


class StreamCase(CaseSettings):
    """Scoring: tokens a second, sinkctl's blocks beside what is run instead."""

    kind: Literal["stream"] = "stream"
    sinks: Sinks = Field(4, description="First tokens always kept.")
    windows: tuple[Count, ...] = Field((252,), min_length=1, description="Recent tokens kept; several: a ladder.")
    chunks: tuple[Count | Literal["auto"], ...] = Field(("auto",), min_length=1, description="Tokens a forward pass.")
    compile: bool | Literal["auto"] = Field("auto", description="Compile the layers; auto: where there is CUDA.")
    peers: tuple[Literal["stock", "tokens", "published", "recompute"], ...] = Field(
        ("stock",),
        description="stock: transformers alone, texts cut into pieces of S+W+1 tokens; tokens: sinkctl token by token; "
        "published: the published streaming recipe, token by token; recompute: the window anew for every token.",
    )


class DecodeCase(CaseSettings):
    """Generation: milliseconds a token, the cache full."""

    kind: Literal["decode"] = "decode"
    sinks: Sinks = Field(4, description="First tokens always kept.")
    windows: tuple[Count, ...] = Field((252,), min_length=1, description="Recent tokens kept; several: a ladder.")
    rows: tuple[Count, ...] = Field((1,), min_length=1, description="Texts side by side; several: a ladder.")
    graph: bool | Literal["auto"] = Field("auto", description="Capture a step as a CUDA graph; auto: on CUDA.")
    compile: bool | Literal["auto"] = Field("auto", description="Compile the layers; auto: where there is CUDA.")
    peers: tuple[Literal["stock", "static", "published", "recompute"], ...] = Field(
        ("stock",),
        description="stock: transformers with all tokens kept, as many as S+W when timed; static: its static cache of "
        "that size, compiled where there is CUDA; published: the published streaming recipe; recompute: the window "
        "anew for every token.",
    )


class MemoryCase(CaseSettings):
    """Peak memory while a text of so many tokens is scored, each length in a process of its own."""

    kind: Literal["memory"] = "memory"
    sinks: Sinks = Field(4, description="First tokens always kept.")
    window: Count = Field(252, description="Recent tokens kept.")
    lengths: tuple[Annotated[int, Field(ge=2)], ...] = Field((8192, 16384, 32768), min_length=1)
    peers: tuple[Literal["dense"], ...] = Field((), description="dense: everything kept.")


class ProcessesCase(CaseSettings):
    """A corpus shared out among so many processes, each on a core or GPU of its own; scoring alone is timed."""

    kind: Literal["processes"] = "processes"
    processes: tuple[Count, ...] = Field((1, 2), min_length=1, description="How many; they take turns.")
    texts: Count = Field(6, description="Files, all of one length.")
    tokens: Annotated[int, Field(ge=16)] = Field(4096, description="Tokens a file, about.")
    sinks: Sinks = Field(4, description="First tokens always kept.")
    window: Count = Field(252, description="Recent tokens kept.")
    rounds: Count = Field(3, description="Runs with each number of processes; each starts all of them.")


class MeasureCase(CaseSettings):
    """Attention metrics of samples of so many tokens, beside a forward pass and beside eager attention maps."""

    kind: Literal["measure"] = "measure"
    lengths: tuple[Annotated[int, Field(ge=8)], ...] = Field((512,), min_length=1, description="Tokens a sample.")
    activations: bool = Field(False, description="Those of the residual stream too.")
    peers: tuple[Literal["stock", "eager"], ...] = Field(
        ("stock", "eager"), description="stock: a forward pass alone; eager: α from output_attentions, layer by layer."
    )


class TrainCase(CaseSettings):
    """A training step with a designed sink, or without, beside the stock model's."""

    kind: Literal["train"] = "train"
    sink: Literal["sink_logit", "none"] = Field("sink_logit", description="The mechanism that is trained.")
    batch: Count = Field(4, description="Sequences a step.")
    lengths: tuple[Annotated[int, Field(ge=8)], ...] = Field((256,), min_length=1, description="Tokens a sequence.")
    window: Count | None = Field(None, description="Recent tokens seen; none: all.")
    peers: tuple[Literal["stock"], ...] = Field(
        ("stock",), description="stock: transformers' own forward and backward."
    )


class KernelCase(CaseSettings):
    """One operator alone, every implementation that runs here, at each size."""

    kind: Literal["kernel"] = "kernel"
    op: Literal["stream_attention", "decode_attention", "column_sums", "sink_attention", "rotate"]
    tokens: tuple[Count, ...] = Field(
        (1024,), min_length=1, description="Queries (decode_attention: keys in the ring)."
    )
    sinks: Sinks = 4
    window: Count | None = Field(252, description="Recent tokens seen; none: all (column_sums, sink_attention).")
    heads: Count = 8
    kv_heads: Count = 8
    width: Count = Field(64, description="Of a head.")
    implementations: tuple[str, ...] = Field((), description="Only these; none: every one that runs here.")


class RoundedSettings(CaseSettings):
    """What cases have that compare precisions of keys and values."""

    kv: tuple[str, ...] = Field(("full",), min_length=1, description="Precisions of keys and values, as --kv.")
    kv_keep: tuple[Annotated[str, Field(pattern=KEEP)], ...] = Field(
        ("none",), min_length=1, description="What stays in full: none, first:N, predicted, or first:N+predicted."
    )
    kv_recent: Annotated[int, Field(ge=0)] = Field(128, description="Last tokens in full, as --kv-recent.")


class QualityCase(RoundedSettings):
    """Perplexity by sinks and window: the published tables' shape. Each number is exact, none is timed."""

    kind: Literal["quality"] = "quality"
    files: tuple[str, ...] = Field((), description="Texts; none: the built-in one.")
    limit: Annotated[int, Field(ge=2)] | None = Field(None, description="Tokens of text; none: all.")
    sinks: tuple[Sinks, ...] = Field((0, 1, 2, 4, 8), min_length=1)
    caches: tuple[Count, ...] = Field((256,), min_length=1, description="Tokens in the cache: sinks and window.")
    peers: tuple[Literal["dense", "recompute", "heavy_hitter", "random"], ...] = ("dense",)
    every: Count = Field(1, description="recompute scores one token in so many; eviction happens once in so many.")
    beside_full: bool = Field(
        False,
        description="Bits per byte too; and, as far as the model's context reaches, KL divergence of the predictions "
        "from those with everything kept, and how often the likeliest token is another: a second pass.",
    )


class PrefixCase(CaseSettings):
    """What tokens in front of a text, kept in full, save where keys and values are rounded: those that take massive
    activations on themselves (PrefixQuant, arXiv 2410.05265), and a greedy search (CushionCache, arXiv 2406.12016).

    Of every front: how many places past it are massive, and how much, perplexity, and what rounding all else adds,
    recent tokens too.
    """

    kind: Literal["prefix"] = "prefix"
    files: tuple[str, ...] = Field((), description="Texts; none: the built-in one.")
    limit: Annotated[int, Field(ge=2)] = Field(4000, description="Tokens of text scored.")
    cache: Annotated[int, Field(ge=64)] = Field(256, description="Tokens in the cache, the front among them.")
    kv: tuple[str, ...] = Field(("4bit", "3bit", "2bit"), min_length=1, description="Precisions, as --kv.")
    samples: Count = Field(16, description="Samples of the text, in which massive activations are looked for,")
    length: Annotated[int, Field(ge=8)] = Field(256, description="tokens each.")
    greedy: Annotated[int, Field(ge=0, le=8)] = Field(0, description="Tokens that a search may put in front; 0: none.")
    search: Annotated[int, Field(ge=2)] = Field(600, description="Tokens scored for each that the search tries.")


class RetrievalCase(RoundedSettings):
    """Lines to be remembered and asked for after a while (StreamEval, arXiv 2309.17453); exact matches in percent."""

    kind: Literal["retrieval"] = "retrieval"
    caches: tuple[str, ...] = Field(("4+252", "0+256", "dense"), min_length=1, description="Policies, as --policy.")
    lines: Count = Field(200, description="Lines of the stream.")
    every: Count = Field(10, description="Ask after every so many lines.")
    back: tuple[Annotated[int, Field(ge=0)], ...] = Field((20,), min_length=1, description="Lines the answer is back.")
    digits: Annotated[int, Field(ge=1, le=18)] = 5


class TasksCase(CaseSettings):
    """Tasks of lm-evaluation-harness, the model streamed (`eval` extra)."""

    kind: Literal["tasks"] = "tasks"
    tasks: tuple[str, ...] = Field(min_length=1, description="Names of tasks.")
    include: str | None = Field(None, description="A folder of task files.")
    caches: tuple[str, ...] = Field(("4+252",), min_length=1, description="Policies, as --policy.")
    limit: Count | None = Field(None, description="Examples a task.")
    lengths: tuple[Count, ...] = Field((), description="Tokens of a text, for tasks that make their own (RULER).")


class StartupCase(CaseSettings):
    """Seconds of a whole command in processes of their own, by phase, with empty and with filled caches of kernels."""

    kind: Literal["startup"] = "startup"
    commands: tuple[Literal["stream", "generate", "measure", "convert"], ...] = Field(
        ("stream", "generate", "measure", "convert"), min_length=1, description="What is run, a little of each."
    )
    caches: tuple[Literal["empty", "filled"], ...] = Field(
        ("empty", "filled"),
        min_length=1,
        description="Of compiled kernels (torch's, Triton's, CUDA's) and sinkctl's own: new ones, or used before.",
    )
    tokens: Annotated[int, Field(ge=2)] = Field(64, description="Streamed or generated.")


AnyCase = Annotated[
    StreamCase
    | DecodeCase
    | MemoryCase
    | ProcessesCase
    | MeasureCase
    | TrainCase
    | KernelCase
    | QualityCase
    | PrefixCase
    | RetrievalCase
    | TasksCase
    | StartupCase,
    Field(discriminator="kind"),
]


class BenchSettings(Settings):
    """How it is timed."""

    rounds: Count = Field(9, description="Samples of each way; in every round the ways take turns.")
    warmup: Annotated[int, Field(ge=0)] = Field(2, description="Rounds before those that count.")
    seconds: Annotated[float, Field(gt=0)] = Field(0.2, description="A sample repeats its work for at least so long.")
    processes: Count = Field(1, description="Processes, one after the other, that each take all rounds.")
    threads: Count | None = Field(None, description="CPU threads; none: as torch has them.")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Draws random weights, tokens and bootstrap samples.")
