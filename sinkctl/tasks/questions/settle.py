"""A questions recipe and a model → what will be run: every `auto` settled, each choice with its reason."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from sinkctl.check.questions import BUILT_IN, measured, rules
from sinkctl.errors import ModelError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import auto_chunk
from sinkctl.model.named import absolute
from sinkctl.recipe.schema import QuestionsRecipe
from sinkctl.result.compare import check_names, parse
from sinkctl.tasks.generate.settle import can_capture
from sinkctl.tasks.questions.items import Items
from sinkctl.tasks.questions.lines import LineItems
from sinkctl.tasks.questions.records import RecordItems
from sinkctl.tasks.stream.settle import bos_rule, model_in_full, resolved
from sinkctl.text.source import STDIN


@dataclass(frozen=True)
class Settled:
    """What a run does, in full."""

    recipe: QuestionsRecipe
    items: Items
    source: str  # of the questions, as people read it
    bos_id: int | None  # put in front, or None
    bos: str  # the same in words
    choices: dict[str, str] = field(default_factory=dict)  # what was chosen → "value: reason"


def settle(recipe: QuestionsRecipe, loaded: LoadedModel) -> Settled:
    """Raises UsageError, TextError or ModelError for what cannot be run."""
    if loaded.tokenizer is None:
        raise ModelError(f"{loaded.name} has no tokenizer, so it cannot be asked anything")
    if not loaded.tokenizer.is_fast:
        raise ModelError(
            f"{loaded.name}: its tokenizer has no fast implementation, so the place of an answer is unknown;"
            " use a checkpoint with a tokenizer.json"
        )
    rules(recipe)
    choices = dict(loaded.choices)
    policies = resolved(recipe.policies, loaded, choices)
    labels = [policy.label for policy in policies]
    check_names([parse(text) for text in recipe.fail_on], measured(labels))
    items, source = _items(recipe)
    bos_id, bos = bos_rule(recipe.bos, loaded)
    bos += "" if bos_id is None else ", once, in front of the text"
    chunk, graph = recipe.chunk, recipe.graph
    if chunk == "auto":
        chunk, choices["chunk"] = auto_chunk(loaded)
    captured, reason = can_capture(loaded, next((p for p in policies if p.kind != "recompute"), policies[0]))
    if graph == "auto":
        graph, choices["graph"] = captured, f"{'on' if captured else 'off'}: {reason}"
    elif graph and not captured:
        raise ModelError(f"a step cannot be captured: {reason}; set graph to auto")
    settled = {
        "policies": policies,
        "questions": absolute(recipe.questions) if recipe.questions != BUILT_IN else BUILT_IN,
        "chunk": chunk,
        "graph": graph,
        "model": model_in_full(recipe.model),
    }
    return Settled(recipe.model_copy(update=settled), items, source, bos_id, bos, choices)


def _items(recipe: QuestionsRecipe) -> tuple[Items, str]:
    """The questions, and what they are called."""
    if recipe.questions == BUILT_IN:
        lines = LineItems(recipe.lines)
        if not lines.asks:
            raise UsageError(
                f"lines: {recipe.lines.count} lines with a question every {recipe.lines.every} never reach"
                f" {min(recipe.lines.back)} lines back; raise lines.count"
            )
        return lines, "built-in lines"
    path = Path(recipe.questions).resolve()
    shown = os.path.relpath(path) if recipe.questions != STDIN and path.is_relative_to(Path.cwd()) else recipe.questions
    return RecordItems(recipe.questions, shown), shown if recipe.questions != STDIN else "standard input"
