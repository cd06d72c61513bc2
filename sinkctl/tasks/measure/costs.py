"""What the sink buys: what is taken away, from samples and from a stream, and what that costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sinkctl.errors import Interrupted, ModelError, TextError, within_memory
from sinkctl.model.kinds import WORDS
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.measure import CostLine, InputScore, MixingLine
from sinkctl.tasks.measure.ablations import Ablations
from sinkctl.tasks.measure.inputs import inputs
from sinkctl.tasks.measure.reading import elsewhere, main_input
from sinkctl.tasks.measure.seeing_costs import seeing_costs, text_sees_ahead
from sinkctl.tasks.measure.streamed import streamed
from sinkctl.tasks.measure.variants import SHORTEST
from sinkctl.text.source import is_pipe

LENGTH = 256
STREAMING = "streaming without sinks"
OTHERS = 1  # sinks besides the first token that are hidden, one at a time


@dataclass(frozen=True)
class Costs:
    """What was taken away and what it cost, how a swapped token spreads, and what could not be measured."""

    lines: list[CostLine] = field(default_factory=list)
    mixing: list[MixingLine] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)


def costs(
    recipe: MeasureRecipe, loaded: LoadedModel, shown: Sequence[InputScore], progress: Callable[[str, int], None],
    stop: Callable[[], bool], found: Costs,
) -> None:  # fmt: skip
    """Fills `found`; nothing for a model without a next-token loss. `shown`: what inputs showed, sinks elsewhere too.

    `progress` is told what was run, and how many tokens. Raises Interrupted where `stop` says so between two passes.
    """
    if not recipe.cost.run:
        return
    if loaded.kind not in ("decoder", "multimodal"):
        said = f"costs need a next-token loss, which {WORDS[loaded.kind]} has not"
        if loaded.kind == "encoder-decoder":
            said = "costs are measured for decoders that stand alone"
        if recipe.cost.run == "auto":
            found.notes.append(said[0].upper() + said[1:] + ".")
            return
        raise ModelError(f"{loaded.name}: {said}")
    if any(map(is_pipe, recipe.input.files)):
        found.notes.append("Costs were not measured: they read the text again, and a pipe cannot be.")
        return

    def go_on() -> None:
        if stop():
            raise Interrupted("stopped")

    if loaded.kind == "multimodal":
        seen = inputs(recipe, loaded)[0]
        if text_sees_ahead(seen, loaded):
            said = "text behind the image sees later text too, so that a next-token loss would be of what is seen"
            if recipe.cost.run != "auto":
                raise ModelError(f"{loaded.name}: {said}; leave --cost out")
            found.notes.append(f"Costs were not measured: {said}.")
            return
        found.lines.extend(seeing_costs(seen, loaded, recipe.cost.samples, progress, go_on))
        return
    ablations = None
    try:
        ids_NT, bos = _samples(recipe, loaded, found.notes)
        others = [sink.token for sink in elsewhere(main_input(shown))[:OTHERS]] if shown else []
        with within_memory(loaded.device, "--batch takes fewer samples"):
            ablations = Ablations(recipe, loaded, ids_NT, bos, others, progress, go_on)
            ablations.run()
    except (ModelError, TextError) as error:
        found.notes.append(f"Not all costs were measured: {error}.")
    finally:
        if ablations is not None:
            found.lines.extend(ablations.lines)
            found.mixing.extend(ablations.mixing)
            found.notes[:0] = ablations.notes
            found.choices.update(ablations.choices)
    try:
        found.lines.append(streamed(recipe, loaded, lambda tokens: progress(STREAMING, tokens), go_on))
    except (ModelError, TextError) as error:
        found.notes.append(f"Nothing was streamed: {error}.")


def _samples(recipe: MeasureRecipe, loaded: LoadedModel, notes: list[str]) -> tuple[Tensor, bool]:
    """(natural samples of one length, whether BOS begins them)."""
    cost, context = recipe.cost, loaded.context
    length = LENGTH if cost.length == "auto" else cost.length
    if context is not None and length > context:
        if cost.length != "auto":
            notes.append(f"Costs: samples of {context} tokens, the model's context.")
        length = context
    bos = recipe.input.bos if recipe.input.bos in ("on", "off") else "auto"
    shown = recipe.input.model_copy(update=dict(kinds=("natural",), samples=cost.samples, length=length, bos=bos))
    found = inputs(recipe.model_copy(update={"input": shown}), loaded)[0]
    if found.note is not None:
        notes.append(f"Costs: {found.note.rstrip('.')}.")
    # As long as half of the samples at least, where a text has shorter ones.
    lengths = sorted((len(ids) for ids in found.samples), reverse=True)
    length = lengths[(len(lengths) - 1) // 2]
    if length < SHORTEST:
        raise TextError(f"samples of {length} tokens are too short, {SHORTEST} or more are needed")
    return torch.stack([ids[:length] for ids in found.samples if len(ids) >= length]), bool(found.bos)
