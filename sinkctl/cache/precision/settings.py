"""What a recipe says of the precision of keys and values. Importing this imports no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMATS = {"8bit": 8, "fp8": "fp8", "4bit": 4, "3bit": 3, "2bit": 2}  # as the command line writes them
KEEP = r"^(none|first:[1-9]\d*|(first:[1-9]\d*\+)?predicted)$"
MOST = 8
NAMES = {bits: name for name, bits in FORMATS.items()}


class Massive(BaseModel):
    """What tells in a stream which tokens will be sinks: a massive element of the residual stream.

    Token t is told where max_{c ∈ channels} |h_tc| > above, h after `layer`. That outliers tell them, in the channels
    and after the layer where they appear, is KVSink's idea (Su and Yuan 2025, arXiv 2508.04257). `above` does not
    change with the text, so that a token's future does not matter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    layer: int = Field(ge=0, description="After which it is looked for; the layers behind it keep what it tells.")
    channels: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1, description="In any of these.")
    above: float = Field(gt=0, description="Its size.")

    @property
    def reason(self) -> str:
        """What tells, in words."""
        channels = ", ".join(map(str, self.channels))
        several = "s" if len(self.channels) > 1 else ""
        return (
            f"those with an activation above {self.above:,.0f} in channel{several} {channels} after layer "
            f"{self.layer}, where massive ones appeared on the built-in text; kept in the layers behind it"
        )


class Precision(BaseModel):
    """Keys and values in few bits once they are not recent (KIVI, Liu et al. 2024, arXiv 2402.02750).

    The query at t sees the value of token j in full while t − j ≤ R (`recent`), or where j is kept; afterwards as its
    quantized self, rounded once. Keys by token do the same. Keys by channel are rounded in groups of G consecutive
    tokens, numbers γG … γG+G−1 of the stream, once all of them have left R: key j is seen in full while
    t − (γG+G−1) ≤ R. Keys are rounded before their rotation, as they come (KVQuant, Hooper et al. 2024,
    arXiv 2401.18079, who keep the first token in full as well). What is kept counts in no group's range. How a number
    is rounded: `quantize.py`.

    A predicted token is one that `massive` tells, in the layers behind it, where fewer than `most` of those before it
    are in the cache still and kept for that reason: so what is kept in full needs no more room in a long text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    bits: Literal[8, 4, 3, 2, "fp8"] = Field(4, description="Bits a number; fp8: e4m3.")
    keys: Literal["channel", "token"] = Field(
        "channel", description="Keys share a range by channel, over `group` tokens, or by token, as values do."
    )
    group: int = Field(
        32, ge=8, multiple_of=8, description="Numbers that share a range: tokens of a channel, or channels of a token."
    )
    recent: int = Field(128, ge=0, description="Last tokens seen in full, the query itself not counted.")
    keep: str = Field(
        "none", pattern=KEEP,
        description="Tokens that stay in full: none; first:N, the first N of the stream; predicted, those whose "
        "massive activations tell that they will be sinks; or first:N+predicted.",
    )  # fmt: skip
    massive: Massive | None = Field(
        None, description="What tells predicted tokens; null: found on the built-in text when it runs."
    )
    most: int = Field(MOST, ge=1, description="Predicted tokens that a layer keeps in full at a time.")

    @property
    def label(self) -> str:
        """What tables and pictures call it: what is not as usual is said."""
        usual = Precision()
        said = ["fp8 KV" if self.bits == "fp8" else f"{self.bits}-bit KV"]
        said += ["keys by token"] if self.keys != usual.keys else []
        said += [f"groups of {self.group}"] if self.group != usual.group else []
        said += [f"last {self.recent} in full"] if self.recent != usual.recent else []
        kept = [f"first {self.kept}"] if self.kept else []
        if self.predicts:
            kept += ["predicted" if self.most == MOST else f"at most {self.most} predicted"]
        return ", ".join(said + ([f"{' and '.join(kept)} kept"] if kept else []))

    @property
    def kept(self) -> int:
        """The first so many tokens stay in full."""
        first = self.keep.partition("+")[0]
        return int(first.partition(":")[2]) if ":" in first else 0

    @property
    def predicts(self) -> bool:
        """Whether predicted tokens stay in full."""
        return self.keep.endswith("predicted")

    @property
    def unused(self) -> str | None:
        """A setting of predicted tokens, where none of them is kept."""
        if self.predicts:
            return None
        return "massive" if self.massive is not None else "most" if self.most != MOST else None

    def slots(self, layer: int) -> int:
        """For predicted tokens, in one of the model's layers."""
        return self.most if self.predicts and self.massive is not None and layer > self.massive.layer else 0

    @property
    def together(self) -> int:
        """Tokens whose keys are rounded together."""
        return self.group if self.keys == "channel" else 1

    @property
    def channels_of_keys(self) -> int | None:
        """Channels of a key that share a range; None: each has its own, over tokens."""
        return None if self.keys == "channel" else self.group

    @property
    def least_window(self) -> int:
        """Past tokens that a layer must keep for any to be rounded; one that keeps fewer stays in full."""
        return self.recent + self.together

    def misfit(self, what: Literal["keys", "values"], width: int) -> str | None:
        """Why heads of so many channels cannot be rounded so; None: they can."""
        if what == "keys" and self.keys == "channel":  # in bytes, all the same
            return f"--kv: keys of {width} channels do not fill bytes; leave it out" if width % 8 else None
        if width % self.group == 0:
            return None
        fit = widest_group(width)
        instead = "leave it out" if fit is None else f"set precision.group to {fit}"
        return f"--kv: groups of {self.group} channels do not divide {what} of {width}; {instead}"

    def rounded(self, seen: int, together: int = 1) -> int:
        """How many of the first tokens are rounded for the query that has seen so many before itself."""
        return max(0, seen - self.recent) // together * together


def widest_group(width: int) -> int | None:
    """Of channels, that divides so many and fills bytes; None: there is none."""
    return max((group for group in range(8, width + 1, 8) if width % group == 0), default=None)
