"""What a recipe may say of training."""

from typing import Annotated, Literal

from pydantic import Field

from sinkctl.cache.precision.settings import Precision, widest_group
from sinkctl.recipe.base import Settings, TextFiles


class LossSettings(Settings):
    """What training makes small, in nats a token."""

    lm: float = Field(1.0, ge=0, description="Weight of the next-token loss;")
    kl: float = Field(0.0, ge=0, description="of the KL from the frozen original, as it is fed, to what is trained;")
    first: float = Field(0.0, ge=0, description="of the mean attention to the first token of a sequence;")
    massive: float = Field(
        0.0,
        ge=0,
        description="of massive activations: Σ log(|h| / limit) over the elements of a layer's output above the limit, "
        "a mean over layers and sequences.",
    )
    massive_limit: float = Field(100.0, gt=0, description="That limit, in medians of |h| in the layer's output.")


class RoundedSettings(Settings):
    """How keys and values are rounded while training, as those of a cache's precision.

    Keys by channel are rounded by a range over `group` tokens up to each, of whatever document: one that later tokens
    share, as in a cache, would let a query see ahead.
    """

    bits: Literal[8, 4, 3, 2, "fp8"] = Field(4, description="Bits a number; fp8: e4m3.")
    keys: Literal["token", "channel"] = Field(
        "token", description="Keys share a range by token, as values do, or by channel, over the last `group` tokens."
    )
    group: int = Field(
        32, ge=8, multiple_of=8, description="Numbers that share a range: channels of a token, or tokens of a channel."
    )

    @property
    def label(self) -> str:
        """4-bit KV, keys by token, as tables call it."""
        said = Precision(bits=self.bits, keys=self.keys, group=self.group).label
        return f"{said}, ranges of keys over tokens up to each" if self.keys == "channel" else said

    def misfit(self, width: int) -> str | None:
        """Why heads of so many channels cannot be rounded so; None: they can."""
        if width % self.group == 0:
            return None
        fit = widest_group(width)
        instead = "leave training.rounded out" if fit is None else f"give {fit}"
        return f"training.rounded.group: {self.group} does not divide values of {width} channels; {instead}"


class LoraSettings(Settings):
    """Low-rank updates of the attention projections (Hu et al. 2021, arXiv 2106.09685), merged at the end."""

    rank: int = Field(16, ge=1, description="Their rank.")
    alpha: float = Field(32.0, gt=0, description="They count alpha / rank.")


class TrainingSettings(Settings):
    """How a conversion goes on from its start. With 0 steps it does not."""

    text: TextFiles = Field(
        TextFiles(), description="Texts, or .npy files of token ids, to train on; none: what follows the held-out text."
    )
    unique: int | None = Field(
        None, ge=9, description="Train on the first so many tokens of the text, again and again; none: on all."
    )
    trained: Literal["new", "attention", "all", "lora"] = Field(
        "all", description="new: the mechanism; attention, lora: and the attention projections; all: every weight."
    )
    alone: int = Field(
        0, ge=0, description="First so many steps, in which the mechanism learns alone and other weights stay."
    )
    batch: int = Field(32, ge=1, description="Sequences a step,")
    length: Annotated[int, Field(ge=8)] | Literal["auto"] = Field(
        "auto", description="tokens each; auto: two windows, or the model's context if shorter."
    )
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Sequences a forward pass takes on each process; the rest of a step accumulates."
    )
    window: Annotated[int, Field(ge=1)] | Literal["auto", "full"] = Field(
        "auto",
        description="Past tokens a query sees (S = 0, W) while training; auto: the calibration's where the mechanism "
        "takes the first token's place, else full.",
    )
    boundaries: Literal["none", "bos", "mask"] = Field(
        "mask",
        description="Where documents meet in a sequence: none: nothing; bos: each begins as texts do, with its BOS or "
        "sink token; mask: that, and they do not see each other.",
    )
    prefix: int | None = Field(
        None,
        ge=2,
        description="Prefix language modelling, from scratch: every query of a sequence sees its first so "
        "many tokens, its BOS counted in, and only what follows them is predicted.",
    )
    rounded: RoundedSettings | None = Field(
        None,
        description="Quantization-aware training (QAT): keys and values are rounded in the forward pass, and gradients "
        "pass as if they were not; none: in full.",
    )
    loss: LossSettings = LossSettings()
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: for the matrices inside layers; AdamW for the rest."
    )
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="Highest learning rate of weights; auto: 2e-5, lora 2e-4, new and from scratch 1e-3;"
    )
    sink_lr: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="of the mechanism's parameters; auto: 0.01 for numbers a head, else as `lr`."
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.95), description="Decay of AdamW's two means."
    )
    weight_decay: float = Field(0.0, ge=0, description="Of matrices; never of the mechanism, norms and biases.")
    warmup: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="Steps to the highest rate; auto: a twentieth."
    )
    final_lr: float = Field(0.1, ge=0, le=1, description="Share of the rate that the cosine ends at.")
    clip: float = Field(1.0, gt=0, allow_inf_nan=True, description="Largest norm of the gradient; inf: any.")
    lora: LoraSettings = LoraSettings()
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of matrix products; what is trained is held in float32. auto: bfloat16 on a GPU."
    )
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="torch.compile the decoder layers; auto: on CUDA from 500 steps on, from 1,000 where documents "
        "have boundaries. The KL and the penalty on massive activations are compiled there anyway.",
    )
    seed: int = Field(0, ge=0, lt=1 << 62, description="Draws the sequences, and random weights.")
    control: bool = Field(True, description="Train a checkpoint without the mechanism just so, beside it.")
    probe: int | None = Field(
        None, ge=1, description="Measure sinks, activations and held-out loss every so many steps."
    )
    save_seconds: float = Field(
        60.0,
        ge=0,
        allow_inf_nan=True,
        description="Time between two states that a run resumes from; inf: none between.",
    )
