"""The part of a result that only `measure` has. Layers, heads, keys and dimensions are counted from 0."""

from typing import Literal

from pydantic import Field

from sinkctl.result.record import ModelReport, Record
from sinkctl.result.suspects import SuspectReport

# Whom keys are hidden from.
LATER, SCORED = "every later query", "the scored queries"


class SinkShare(Record):
    """Sink_{k+1}^ε: share of (sample, layer, head) whose α of key `key` exceeds ε."""

    epsilon: float
    key: int
    percent: float | None
    error: float | None = Field(None, description="Standard error over the samples, for the first ε and key.")


class FoundSink(Record):
    """A token other than the first that heads sink on."""

    token: str
    times: int = Field(description="Places in the samples where it is a sink.")
    occurrences: int = Field(description="Places in the samples where it could have been one.")
    position: float = Field(description="Median index in its sample.")
    percent: float = Field(description="Heads that sink on it there, of all softmax heads.")
    strongest: tuple[int, int] = Field(description="Layer and head with the largest α on it.")
    alpha: float = Field(description="That α.")


class MassiveActivation(Record):
    """The largest activations of a layer, means over the samples unless something else is said."""

    top: tuple[float | None, float | None, float | None]
    largest: float | None = Field(None, description="Top-1 of the sample that has the largest.")
    median: float | None
    token: int = Field(description="Where top-1 most often stands: index in the sample,")
    channel: int = Field(description="and its channel.")
    text: str = Field(description="That token.")
    count: float = Field(description="Massive elements a sample, by the definition in force.")
    samples: int | None = Field(None, description="Samples that have any.")
    not_finite: float


class LayerScore(Record):
    """One layer: means over samples, and over its heads; None where it has no such thing."""

    number: int
    kind: str = Field(description="softmax, window 8 (the query itself counted), …; or why there is no map.")
    attends: bool
    sink_percent: float | None = Field(None, description="Heads with α of the first key above the first ε.")
    alpha: float | None = Field(None, description="α of the first key.")
    alpha_max: float | None = None
    last_query: float | None = Field(None, description="Mass of the last query on the first key.")
    tail_mass: float | None = Field(None, description="Mass of the last queries on the leading keys.")
    entropy: float | None = Field(None, description="nats")
    entropy_share: float | None = None
    distance: float | None = Field(None, description="Mean attended distance, tokens.")
    sinks_mass: float | None = None
    local_mass: float | None = None
    rest_mass: float | None = None
    learned_mass: float | None = Field(None, description="Mass on a learned sink logit.")
    key_first: float | None = None
    key_rest: float | None = None
    value_first: float | None = None
    value_rest: float | None = None
    value_drain: float | None = Field(None, description="‖v of the first token‖ / mean ‖v‖ of the rest.")
    written_drain: float | None = Field(None, description="‖v W_O‖ likewise, means over samples first.")
    cosine_first: float | None = Field(None, description="Mean cosine of queries with the first key.")
    cosine_rest: float | None = None
    dormant: int | None = Field(None, description="Heads that write less than a tenth of their layer's mean.")
    gate: float | None = Field(None, description="What a gate or norm lets through to the output projection.")
    norm_first: float | None = Field(None, description="Residual stream after the layer.")
    norm_rest: float | None = None
    massive: MassiveActivation | None = None
    max_abs: float | None = Field(None, description="‖x‖∞, mean over samples.")
    kurtosis: float | None = None
    outlier_share: float | None = Field(None, description="Elements beyond six standard deviations.")
    effective_rank: float | None = None
    matrix_entropy: float | None = None
    first_direction: float | None = Field(None, description="σ₁² share.")
    first_token_expert: int | None = Field(None, description="The expert that the first token goes to most often,")
    first_token_share: float | None = Field(None, description="in this share of samples,")
    expert_share: float | None = Field(None, description="and the share of other tokens that go to it.")


class HeadMap(Record):
    """α of some keys for every head: `alpha[key][row][head]`; a row is a softmax layer, `layers[row]` its number."""

    keys: list[int]
    layers: list[int]
    alpha: list[list[list[float | None]]]
    classes: list[list[str]] = Field(description="Class of every head, [row][head].")


class QueryPoint(Record):
    """Attention of queries `first … end−1` to the leading keys, mean over layers and heads."""

    first: int
    end: int
    mass: list[float | None]


class Surface(Record):
    """|h| by token and channel after one layer of the first sample; each cell is the largest of its channels."""

    layer: int
    tokens: list[str]
    channels: list[int] = Field(description="First channel of each cell.")
    size: list[list[float | None]]


class PatchNorms(Record):
    """Norms of the tokens of a vision model after its last block."""

    cls: float | None
    registers: list[float]
    patch_median: float
    patch_max: float
    outlier_percent: float
    threshold: float
    bins: list[tuple[float, float, int]] = Field(description="Histogram of patch norms: from, to, patches.")


class ImageMap(Record):
    """One image, patch by patch: rows from above, in each from the left."""

    name: str
    norm: list[list[float | None]] = Field(description="Norm of a patch after the last block;")
    cls: list[list[float | None]] | None = Field(
        description="attention of [CLS] to it in the last layer, a mean over heads; None: there is none, or no map."
    )
    cls_registers: float | None = Field(None, description="The same to all registers together.")


class KeyGroup(Record):
    """One kind of keys, such as image tokens, and the share of attention that it receives."""

    name: str
    keys: float = Field(description="Share of the keys that are of this kind, percent.")
    layers: list[int] = Field(description="Of every softmax attention its layer,")
    mass: list[list[float | None]] = Field(description="and what its heads give to this kind, means over queries.")

    @property
    def percent(self) -> float | None:
        """The mean over all heads."""
        values = [x for row in self.mass for x in row if x is not None]
        return 100 * sum(values) / len(values) if values else None


class Agreement(Record):
    """Places that a rule predicts to be sinks, against those that are."""

    predicted: int
    sinks: int
    right: int = Field(description="Of both.")
    precision: float | None = Field(description="right / predicted, percent; None: nothing is predicted.")
    recall: float | None = Field(description="right / sinks, percent; None: there is none.")


class PredictedToken(Record):
    """A token that the rule predicts to be a sink."""

    token: str | None = Field(description="None: the first of its sample, whatever it is.")
    predicted: int = Field(description="Places where it is predicted;")
    right: int = Field(description="of these, where it is a sink of a later layer.")
    position: float = Field(description="Median index in its sample.")


class PredictedSinks(Record):
    """Tokens to keep in full where keys and values are rounded: massive in these channels after this layer.

    Places near the end of a sample, which too few queries follow to be called sinks, are not counted.
    """

    layer: int
    channels: list[int]
    tokens: list[PredictedToken]
    all: Agreement = Field(description="With what heads of later layers sink on, by the first ε;")
    besides_first: Agreement = Field(description="the same without the first tokens of the samples.")
    keep: str = Field(description="What `sinkctl stream --kv-keep` takes to keep them: none, or first:N,")
    left: int = Field(description="and the predicted places that this does not keep.")


class InputScore(Record):
    """What one kind of input showed."""

    name: str = Field(description="natural, BOS; random, no BOS; …")
    kind: str
    part: str | None = Field(None, description="Of an encoder-decoder: encoder, decoder or cross-attention.")
    bos: bool | None = Field(description="None where there is nothing to put in front.")
    samples: int
    length: int
    first_tokens: list[str] = Field(description="Of the first sample;")
    shared_tokens: int = Field(0, description="so many of them begin every sample.")
    sinks: list[SinkShare]
    layers: list[LayerScore]
    heads: HeadMap | None
    classes: dict[str, int] = Field(description="Heads by class.")
    found: list[FoundSink]
    groups: list[KeyGroup] = Field(default_factory=list, description="Kinds of keys, and what each receives.")
    predicted: PredictedSinks | None = Field(None, description="None: nothing is massive, or not both were measured.")
    queries: list[QueryPoint]
    surface: Surface | None
    patches: PatchNorms | None = None
    images: list[ImageMap] = Field(default_factory=list, description="The first images of a vision model.")
    balance_error: float | None = Field(description="Largest error of a head's mass balance.")
    alpha_max: float | None = Field(description="Largest α of the first key, any head.")
    massive_layers: list[int] = Field(description="Layers with massive activations, in any of the samples.")
    seconds: float


class TakenOver(Record):
    """The key that heads sink on once the first is hidden from every later query."""

    token: str | None = Field(description="Its text, where at least half of the samples agree;")
    place: float = Field(description="median index in its sample,")
    percent: float = Field(description="of heads that sink on it then,")
    before: float = Field(description="and while the first key is seen.")
    layer: int | None = Field(
        description="The first where at least half of the heads that sank on the first key sink on it."
    )


class CostLine(Record):
    """One thing taken away, and what it cost."""

    name: str
    what: str
    tokens: int = Field(0, description="Tokens scored.")
    perplexity: float | None = None
    baseline: float | None = Field(None, description="Perplexity with nothing taken away, on the same tokens.")
    error: float | None = Field(None, description="Standard error of perplexity / baseline.")
    hidden_from: Literal["every later query", "the scored queries"] | None = Field(
        None, description="Of hidden keys: the second differs where a sink forms elsewhere without them."
    )
    taken_over: TakenOver | None = None
    kl: float | None = Field(None, description="KL of the last token's distribution, nats.")
    top5: float | None = Field(None, description="Share of the five likeliest tokens that stay, last token.")


class MixingLine(Record):
    """Over-mixing: how far one swapped token spreads, relative change of the residual stream, by block."""

    name: str
    change: list[float]


class CheckpointScore(Record):
    """Everything about one checkpoint."""

    label: str
    step: int | None = Field(None, description="Training step, where the name says one.")
    model: ModelReport
    kind: str = Field(description="decoder, encoder, encoder-decoder, vision, multimodal or diffusion")
    verdict: list[str]
    notes: list[str]
    inputs: list[InputScore]
    costs: list[CostLine]
    mixing: list[MixingLine]
    suspects: SuspectReport | None = None


class MeasureDetail(Record):
    """Checkpoints measured with the same inputs."""

    epsilons: list[float]
    keys: int
    sinks: int
    local: int
    tail: int
    class_rule: str
    massive_rule: str
    checkpoints: list[CheckpointScore]
