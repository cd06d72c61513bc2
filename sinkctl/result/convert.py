"""The part of a result that only `convert` has. Layers are counted from 0."""

from typing import Any

from pydantic import Field

from sinkctl.result.record import Record


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

    checkpoint: str = Field(description="original or converted")
    policy: str = Field(description="1+255, 0+256")
    first: str = Field(description="What stands in front: BOS, sink token, nothing.")
    perplexity: float | None = Field(description="None: it cannot be streamed, see the notes.")


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
    massive_layers: int | None = Field(None, description="Layers with massive activations.")


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
