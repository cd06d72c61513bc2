"""What a recipe says of the precision of keys and values. Importing this imports no torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FORMATS = {"8bit": 8, "fp8": "fp8", "4bit": 4, "3bit": 3, "2bit": 2}  # as the command line writes them
KEEP = r"^(none|first:[1-9]\d*)$"
NAMES = {bits: name for name, bits in FORMATS.items()}


class Precision(BaseModel):
    """Keys and values in few bits once they are not recent (KIVI, Liu et al. 2024, arXiv 2402.02750).

    The query at t sees the value of token j in full while t − j ≤ R (`recent`), or where j is kept; afterwards as its
    quantized self, rounded once. Keys by token do the same. Keys by channel are rounded in groups of G consecutive
    tokens, numbers γG … γG+G−1 of the stream, once all of them have left R: key j is seen in full while
    t − (γG+G−1) ≤ R. Keys are rounded before their rotation, as they come (KVQuant, Hooper et al. 2024,
    arXiv 2401.18079, who keep the first token in full as well). What is kept counts in no group's range. How a number
    is rounded: `quantize.py`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
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
        description="Tokens that stay in full: none, or first:N, the first N of the stream.",
    )  # fmt: skip

    @property
    def label(self) -> str:
        """What tables and pictures call it: what is not as usual is said."""
        usual = Precision()
        said = ["fp8 KV" if self.bits == "fp8" else f"{self.bits}-bit KV"]
        said += ["keys by token"] if self.keys != usual.keys else []
        said += [f"groups of {self.group}"] if self.group != usual.group else []
        said += [f"last {self.recent} in full"] if self.recent != usual.recent else []
        said += [f"first {self.kept} kept"] if self.kept else []
        return ", ".join(said)

    @property
    def kept(self) -> int:
        """The first so many tokens stay in full."""
        return 0 if self.keep == "none" else int(self.keep.partition(":")[2])

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
