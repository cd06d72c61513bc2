"""A recipe's training settings → what will be done, every `auto` settled."""

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from transformers import PreTrainedModel

from sinkctl.errors import ModelError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.recipe.training import TrainingSettings

# As checkpoints of any size are commonly tuned: whole (or in part), by low-rank updates, a few numbers alone.
RATE, RATES = 2e-5, {"lora": 2e-4, "new": 1e-3}
WORTH_COMPILING = 1000  # steps
# Of a process's free memory, the share that one forward and backward pass may fill; on a CPU bytes.
SHARE, CPU_BYTES = 0.35, 2 << 30


@dataclass(frozen=True)
class Plan:
    """What a training run does, in full."""

    settings: TrainingSettings
    steps: int
    length: int  # tokens a sequence
    window: int | None  # past tokens a query sees
    half: bool  # matrix products in bfloat16
    compiled: bool
    controlled: bool  # whether there is a control beside it
    notes: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.settings.batch * self.length


def plan(recipe: ConvertRecipe, loaded: LoadedModel, window: int) -> Plan:
    """Settle it, for a start made for `window` tokens.

    Raises UsageError for what does not go together, ModelError for low-rank updates without peft.
    """
    settings = recipe.training
    length, seen = settings.length, settings.window
    if length == "auto":
        length = min(2 * window, loaded.context or 2 * window)
    if settings.lr == "auto":
        lr = 1e-3 if recipe.scratch is not None else RATES.get(settings.trained, RATE)
        settings = settings.model_copy(update={"lr": lr})
    if seen == "auto":
        seen = window if recipe.sink.replaces_first and recipe.sink.bos != "keep" else "full"
    fixed = recipe.sink.kind == "softmax1" and not recipe.sink.replaces_first  # a logit of 0 and no bias
    if settings.trained == "new" and (recipe.sink.kind == "none" or fixed):
        what = f"the mechanism {recipe.sink.kind} has nothing to train"
        raise UsageError(f"--trained new: {what}; choose attention, all or lora")
    if settings.trained == "lora" and find_spec("peft") is None:
        raise ModelError("--trained lora takes peft; pip install 'sinkctl[lora]'")
    _check_sink(recipe)
    if settings.warmup != "auto" and settings.warmup >= recipe.steps:
        raise UsageError(f"training.warmup: {settings.warmup} of {recipe.steps} steps never reach the full rate")
    if settings.loss.kl and recipe.scratch is not None:
        raise UsageError("training.loss.kl: there is no original to stay near, the weights begin at random")
    if not (settings.loss.lm or settings.loss.kl):
        raise UsageError("training.loss: nothing to learn; give lm or kl a weight")
    if settings.text.field is not None and not settings.text.files:
        raise UsageError("training.text.field: names a field of --train-text files, and there are none")
    half = settings.precision == "bfloat16" or (settings.precision == "auto" and loaded.device.type == "cuda")
    compiled = settings.compile
    if compiled == "auto":
        compiled = loaded.device.type == "cuda" and recipe.steps >= WORTH_COMPILING
    controlled = settings.control and recipe.sink.kind != "none"
    window = None if seen == "full" else seen
    return Plan(settings, recipe.steps, length, window, half, compiled, controlled, _notes(recipe, loaded, length))


def _notes(recipe: ConvertRecipe, loaded: LoadedModel, length: int) -> tuple[str, ...]:
    said = []
    if loaded.context is not None and length > loaded.context:
        said.append(f"Sequences of {length:,} tokens go past the model's context of {loaded.context:,}.")
    if recipe.sink.kind == "sink_logit" and recipe.sink.start == "exact":
        said.append("The logit begins so far below every score that it never trains: what learned is the rest.")
    return tuple(said)


def _check_sink(recipe: ConvertRecipe) -> None:
    """UsageError for mechanisms that training would not reach, or would train for another stream than theirs."""
    sink, window = recipe.sink, recipe.training.window
    if recipe.training.trained == "new" and sink.kind == "sink_logit" and sink.start == "exact":
        raise UsageError("--start exact: a logit so far below every score never trains; begin warm, zero or match")
    if getattr(sink, "mix", 1.0) == 0:
        raise UsageError("sink.mix: of 0 the mechanism has no part, and never trains; give it more")
    if sink.kind in ("sink_token", "score_bias") and window not in ("auto", "full"):
        raise UsageError(f"--train-window {window}: hides the first token, which {sink.kind} keeps; leave it out")


def micro_batch(plan: Plan, model: PreTrainedModel, rows: int, maps: bool, learned: int) -> tuple[int, str]:
    """(sequences a forward pass takes of the `rows` of a process, the reason).

    `maps`: attention keeps T×T maps; `learned`: numbers that are trained, whose gradients and means take room too.
    """
    if plan.settings.micro_batch != "auto":
        return min(rows, plan.settings.micro_batch), "asked for"
    config, cuda = model.config.get_text_config(), model.device.type == "cuda"
    inner = 4 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    each = config.num_hidden_layers * (20 * config.hidden_size + inner) * (2 if plan.half else 4)
    each += (24 if plan.settings.loss.kl else 12) * config.vocab_size
    if maps or (cuda and not plan.half):
        each += config.num_hidden_layers * config.num_attention_heads * plan.length * 24
    free = torch.cuda.mem_get_info(model.device)[0] if cuda else 0
    room = max(SHARE * (free - 12 * learned), 0.1 * free) if cuda else CPU_BYTES
    size = max(1, min(rows, int(room / (each * plan.length))))
    size = next(n for n in range(size, 0, -1) if rows % n == 0)
    return size, f"about {each * plan.length * size / 2**30:.2g} GiB of activations"
