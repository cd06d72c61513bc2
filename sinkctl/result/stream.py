"""The part of a result that only `stream` has."""

from pydantic import Field

from sinkctl.result.record import Record


class CurvePoint(Record):
    """Mean NLL of the scored tokens with positions in `first … end−1`; of texts on their own, each in its text."""

    first: int
    end: int
    nll: float
    tokens: int


class PolicyScore(Record):
    """What one policy scored."""

    label: str
    kind: str
    settings: dict
    tokens: int = Field(description="Tokens scored.")
    perplexity: float | None
    common_perplexity: float | None = Field(description="Over the tokens that every policy of the run scored.")
    common_tokens: int
    cache_tokens: int | None = Field(description="Largest number of tokens in the cache; null: grows with the text.")
    cache_bytes: int
    extrapolates_from: int | None = Field(None, description="Position where it leaves the model's context.")
    curve: list[CurvePoint]


class FileMark(Record):
    """The scored token `index` starts at `byte` of `file`."""

    index: int
    file: str
    byte: int


class Passage(Record):
    """A surprising passage: the mean NLL of `tokens` consecutive tokens under the first policy; of a line, over 8."""

    index: int
    tokens: int
    nll: float
    file: str
    byte: int
    line: int
    text: str
    token: str = Field("", description="The token of it that surprised most,")
    token_nll: float | None = Field(None, description="and its NLL.")
    pieces: list[tuple[str, float]] = Field(default_factory=list, description="Its tokens, and the NLL of each.")


class MemorySample(Record):
    """Memory at a point of the run."""

    tokens: int
    process_bytes: int
    device_bytes: int | None


class StreamDetail(Record):
    """Scores, curves and places of one streamed text."""

    tokens: int
    texts: int | None = Field(None, description="Texts on their own; null: all files are one.")
    processes: int = Field(1, description="That scored them.")
    bos: str
    chunk: int
    policies: list[PolicyScore]
    marks: list[FileMark] = Field(description="Where every file starts, and some places between.")
    passages: list[Passage]
    memory: list[MemorySample]
    sink_rate: float | None = Field(
        description="Share of heads with mean attention above 0.3 to the first token, samples of the text's beginning."
    )
