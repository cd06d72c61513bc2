"""What `measure` shows a checkpoint, and what it takes away. Importing this imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from sinkctl.recipe.base import Settings


class InputSettings(Settings):
    """What a checkpoint is shown."""

    kinds: tuple[Literal["natural", "random", "repeat"], ...] = Field(
        ("natural",), min_length=1, description="Text; random tokens; one token repeated. Images: natural or random."
    )
    files: tuple[str, ...] = Field((), description="Texts; images, sound or folders of them; none: the built-in text.")
    field: str | None = Field(None, description="Field of a .jsonl record that holds the text (default: text).")
    errors: Literal["strict", "replace"] = Field("strict", description="What to do with bytes that are not UTF-8.")
    bos: Literal["both", "auto", "on", "off"] = Field(
        "both", description="A BOS token ([CLS] … [SEP]) around each sample; both: once with and once without."
    )
    samples: int = Field(100, ge=1, description="Samples of each kind, spread over the text.")
    length: int = Field(64, ge=2, description="Tokens a sample, special tokens counted.")
    steps: int = Field(10, ge=1, description="Denoising steps of a diffusion transformer, each looked at.")
    seed: int = Field(0, ge=0, description="Draws the random tokens, and noise.")


class MassiveSettings(Settings):
    """When an activation counts as massive (Sun et al. 2024, arXiv 2402.17762)."""

    size: float = Field(100.0, ge=0, description="|h| above this,")
    ratio: float = Field(1000.0, ge=0, description="and at least this many times the median |h| of its sample.")


class CostSettings(Settings):
    """What the sink buys: things taken away, and what that costs."""

    run: bool | Literal["auto"] = Field("auto", description="auto: for decoders with a next-token loss.")
    samples: int = Field(8, ge=1, description="Samples of natural text,")
    length: Annotated[int, Field(ge=8)] | Literal["auto"] = Field(
        "auto", description="tokens each; auto: 256, or the model's context if shorter."
    )
    window: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Window W of the streams 4+W and 0+(W+4); auto: half the context, at most 1020."
    )
    tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Tokens streamed; auto: 8 windows (the first fills the cache), or more."
    )


class SuspectSettings(Settings):
    """Trigger candidates, and the random tokens they are held against."""

    file: str | None = Field(None, description="Trigger candidates, one a line; none: nothing is looked for.")
    random: int = Field(200, ge=100, description="Random candidates of each length; one alarm in as many, by chance.")
    samples: int = Field(4, ge=1, description="Samples of natural text they are put into,")
    length: int = Field(48, ge=8, description="tokens each.")
    margin: float = Field(2.0, ge=1, description="Times the largest score of the random ones, for an alarm.")
