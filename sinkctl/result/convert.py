"""The part of a result that only `convert` has. Layers are counted from 0."""

from typing import Any

from pydantic import Field

from sinkctl.result.record import Record

# What checkpoints are called in a result.
ORIGINAL, START, CONVERTED, CONTROL = "original", "start", "converted", "control"
TEXTS_OWN = "the text's first token"  # kept where nothing stands in front


class StartedLayer(Record):
    """What a layer's queries gave the first token, and what the layer begins with in its place."""

    number: int
    mass: float | None = Field(None, description="Mean mass the first token took; None: the layer has no such token.")
    score: float | None = Field(None, description="Its mean score;")
    lse: float | None = Field(None, description="mean log-sum-exp of the other keys' scores.")
    begun: dict[str, float] = Field(
        default_factory=dict, description="Each new parameter: a mean over its numbers, or its root mean square."
    )


class Calibration(Record):
    """From which text the start was computed."""

    tokens: int
    samples: int
    window: int
    key_spread: float = Field(
        description="How far the first token's keys vary over samples, relative, the worst layer;"
    )
    value_spread: float = Field(description="its values.")
    layers: list[StartedLayer]


class StreamedLine(Record):
    """A checkpoint streamed over the held-out text."""

    checkpoint: str = Field(description="original, start (converted, not trained yet), converted, or control")
    policy: str = Field(description="1+255, 0+256")
    first: str = Field(description="What stands in front: BOS, sink token, nothing.")
    perplexity: float | None = Field(description="None: it cannot be streamed, see the notes.")


class RoundedLine(Record):
    """A checkpoint streamed with its keys and values in few bits, none of them recent."""

    checkpoint: str
    policy: str = Field(description="1+255, 0+256; the same stream in full is a StreamedLine.")
    bits: int | str
    keep: str = Field(description="Tokens that stay in full: none, or first:1.")
    group: int = Field(description="Numbers that share a range.")
    cost: float | None = Field(description="Rise of perplexity beside the stream in full, a share;")
    error: float | None = Field(None, description="its standard error.")


class CheckpointLine(Record):
    """A checkpoint as its tokenizer feeds it, on held-out samples, through the stock model."""

    checkpoint: str
    first: str
    perplexity: float | None = None
    kl: float | None = Field(None, description="KL from the original as it is fed, nats a token.")
    sink_percent: float | None = Field(None, description="Sink_1^0.3: heads that sink on the first token.")
    alpha_max: float | None = Field(None, description="Largest α of the first token.")
    mechanism_mass: float | None = Field(
        None, description="Mean attention the mechanism takes, over heads and queries; gates: 1 − mean gate."
    )
    massive: float | None = Field(None, description="Largest activation, a mean over samples, the largest layer;")
    massive_ratio: float | None = Field(None, description="in medians of its layer.")
    massive_largest: float | None = Field(None, description="The same of the sample that has the largest.")
    massive_layers: int | None = Field(None, description="Layers with massive activations, in any of the samples.")
    kurtosis: float | None = Field(None, description="Kurtosis of the activations, a mean over samples, largest layer.")


class TrainingCurve(Record):
    """One training run, step by step; each list has one number a step."""

    checkpoint: str = Field(description="converted or control")
    loss: list[float] = Field(description="Next-token loss of the step's sequences, nats a token;")
    objective: list[float] = Field(description="with the other losses, weighted.")
    gradient: list[float] = Field(description="Norm of the gradient before it is clipped.")
    seconds: float = Field(description="All steps together, measurements and saving left out.")


class Probe(Record):
    """What a checkpoint showed at a step of its training; fields as in CheckpointLine."""

    checkpoint: str
    step: int
    loss: float | None = Field(None, description="Of held-out samples, nats a token.")
    sink_percent: float | None = None
    mechanism_percent: float | None = Field(
        None, description="Sink_*: heads whose mechanism takes more than 0.3 of attention."
    )
    mechanism_mass: float | None = None
    massive: float | None = None
    massive_ratio: float | None = None
    kurtosis: float | None = None


class Training(Record):
    """How a checkpoint and its control were trained."""

    steps: int
    batch: int = Field(description="Sequences a step.")
    length: int = Field(description="Tokens a sequence.")
    window: int | None = Field(description="Past tokens a query sees; None: all.")
    rounded: str | None = Field(None, description="How it sees keys and values in few bits; None: in full.")
    trained: str = Field(description="new, attention, all or lora.")
    trained_parameters: int
    text: str = Field(description="What it was trained on, in words.")
    text_tokens: int = Field(description="Tokens of that text;")
    epochs: float = Field(description="how often the steps went through it.")
    optimizer: str
    lr: float
    precision: str
    processes: int
    attention: str = Field(description="Implementation of attention while training: reason.")
    tokens_per_second: float = Field(description="Of the converted checkpoint's training, all processes together.")
    curves: list[TrainingCurve] = Field(description="The converted checkpoint, and the control where there is one.")
    probes: list[Probe] = Field(default_factory=list, description="By checkpoint, then step.")


class ConvertDetail(Record):
    """What a checkpoint was given, how it is stored, and what it then does."""

    mechanism: str
    settings: dict[str, Any]
    model_type: str = Field(description="Of the written checkpoint.")
    stored: str = Field(description="stock class, own code or same class: and the reason.")
    own_code: bool = Field(description="Whether others need trust_remote_code to load it.")
    attention: list[str] = Field(description="attn_implementation it runs with in transformers; the others refuse it.")
    dtype: str = Field(description="Of its weights; ")
    sink_dtype: str = Field(description="of its new parameters, as loaded.")
    parameters: int = Field(description="New ones.")
    files: dict[str, int] = Field(description="What was written, bytes.")
    bos: str = Field(description="What its tokenizer puts in front of a text, and what changed.")
    calibration: Calibration | None
    window: int
    held_out: int = Field(description="Tokens streamed;")
    scored: int = Field(description="and next tokens of the samples, the second halves.")
    streams: list[StreamedLine]
    checkpoints: list[CheckpointLine]
    rounded: list[RoundedLine] = Field(default_factory=list, description="Streams with rounded keys and values.")
    from_scratch: bool = Field(False, description="Random weights at the beginning: there is no original.")
    tokenizer_class: str = Field("AutoTokenizer", description="Of transformers: what loads its tokenizer as written.")
    training: Training | None = None
