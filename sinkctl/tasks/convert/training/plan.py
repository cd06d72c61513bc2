"""A recipe's training settings → what will be done, every `auto` settled."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from sinkctl.check.convert import training_rules
from sinkctl.errors import UsageError
from sinkctl.model.compiled import never_compiled
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.recipe.training import TrainingSettings
from sinkctl.tasks.convert.training.trained import PLAIN

# As checkpoints of any size are commonly tuned: whole (or in part), by low-rank updates, a few numbers alone.
RATE, RATES = 2e-5, {"lora": 2e-4, "new": 1e-3}
# Steps from which compiling pays; where documents have boundaries, steps may be of several widths, each compiled anew.
WORTH_COMPILING, WORTH_WIDTHS = 500, 1000
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
    compiled_because: str
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
    said = {"training": settings.model_copy(update={"length": length})}
    training_rules(recipe.model_copy(update=said))  # again, with the length as it is now
    if settings.rounded is not None:
        _check_rounded(settings, loaded)
    half = settings.precision == "bfloat16" or (settings.precision == "auto" and loaded.device.type == "cuda")
    controlled = settings.control and recipe.sink.kind != "none"
    window = None if seen == "full" else seen
    compiled, why = compiles(recipe, loaded)
    notes = _notes(recipe, loaded, length)
    return Plan(settings, recipe.steps, length, window, half, compiled, why, controlled, notes)


def compiles(recipe: ConvertRecipe, loaded: LoadedModel) -> tuple[bool, str]:
    """Whether to compile the decoder layers, and why."""
    if recipe.training.compile != "auto":
        return recipe.training.compile, "asked for"
    if (why := never_compiled(loaded.model, loaded.device)) is not None:
        return False, why
    worth = recipe.steps >= (WORTH_COMPILING if recipe.training.boundaries == "none" else WORTH_WIDTHS)
    return worth, f"{recipe.steps:,} steps {'repay' if worth else 'are too few to repay'} compiling"


def _check_rounded(settings: TrainingSettings, loaded: LoadedModel) -> None:
    """UsageError for a model whose keys and values training cannot round, or not in groups of that size."""
    config = loaded.model.config
    if config.model_type in PLAIN:
        raise UsageError(f"training.rounded: keys and values of {config.model_type} are not rounded; leave it out")
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if (problem := settings.rounded.misfit(width)) is not None:
        raise UsageError(problem)


def _notes(recipe: ConvertRecipe, loaded: LoadedModel, length: int) -> tuple[str, ...]:
    said = []
    if loaded.context is not None and length > loaded.context:
        said.append(f"Sequences of {length:,} tokens go past the model's context of {loaded.context:,}.")
    if recipe.sink.kind == "sink_logit" and recipe.sink.start == "exact":
        said.append("The logit begins so far below every score that it never trains: what learned is the rest.")
    return tuple(said)


def micro_batch(plan: Plan, model: PreTrainedModel, rows: int, maps: bool, learned: int) -> tuple[int, str]:
    """(sequences a forward pass takes of the `rows` of a process, the reason).

    `maps`: attention keeps T×T maps; `learned`: numbers that are trained, whose gradients and means take room too.
    """
    if plan.settings.micro_batch != "auto":
        return min(rows, plan.settings.micro_batch), "asked for"
    config, cuda = model.config.get_text_config(), model.device.type == "cuda"
    inner = 4 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    each = config.num_hidden_layers * (20 * config.hidden_size + inner) * (2 if plan.half else 4)
    # Logits as they come and in float32, and their gradient; with a KL the original's and its own gradient.
    each += (20 if plan.settings.loss.kl else 12) * config.vocab_size
    if maps or (cuda and not plan.half):
        each += config.num_hidden_layers * config.num_attention_heads * plan.length * 24
    free = torch.cuda.mem_get_info(model.device)[0] if cuda else 0
    room = max(SHARE * (free - 12 * learned), 0.1 * free) if cuda else CPU_BYTES
    size = max(1, min(rows, int(room / (each * plan.length))))
    size = next(n for n in range(size, 0, -1) if rows % n == 0)
    return size, f"about {each * plan.length * size / 2**30:.2g} GiB of activations"
