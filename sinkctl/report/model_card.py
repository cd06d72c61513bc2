"""The README.md of a converted checkpoint, a model card as the Hub reads it: templates/card.md and registers.md."""

import re
import shlex
from pathlib import PurePath
from typing import Any

from sinkctl.report import converted
from sinkctl.report.markdown import own_name, rendered
from sinkctl.report.printable import visible
from sinkctl.report.registered import tables as register_tables
from sinkctl.report.trained import has_control, steps_words, text_words, trained_words, training_facts
from sinkctl.result.convert import CONTROL, CONVERTED, ORIGINAL, ConvertDetail
from sinkctl.result.numbers import count
from sinkctl.result.schema import Result

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
MOST_LAYERS = 8


def model_card(result: Result, name: str) -> str:
    """The whole file; `name` is what the checkpoint is loaded by, a folder or a Hub id."""
    words = dict(title=PurePath(name).name or name, name=name, verdict=result.verdict, notes=result.notes)
    words |= dict(version=result.sinkctl_version, recipe=_without_folders(result.recipe))
    if (found := result.registers) is not None:
        front = {"library_name": "transformers", "tags": ["attention-sink", "registers", "sinkctl", found.mechanism]}
        return rendered("registers.md", detail=found, front=front, tables=register_tables(found), **words)
    detail = result.convert
    assert detail is not None, "a result of convert"
    if (training := detail.training) is not None:
        words |= dict(weights=trained_words(training, detail.mechanism), steps=steps_words(training))
        words |= dict(facts=training_facts(training, detail.mechanism), has_control=has_control(training))
    if detail.calibration is not None:
        words |= dict(calibration=converted.calibration_line(detail.calibration))
        words |= dict(started=converted.start_table(detail.calibration, MOST_LAYERS))
    streamed, ours = {line.checkpoint for line in detail.streams}, converted.streams_of(detail, CONVERTED)
    command = f"sinkctl stream --model {shlex.quote(name)} -p {shlex.quote(converted.stream_policy(detail))} book.txt"
    asked = (result.recipe.get("model") or {}).get("adapters") or [result.model.name]
    return rendered(
        "card.md", detail=detail, model=result.model, training=training, front=_front_matter(result),
        mechanism=converted.mechanism_words(detail), begun=_begun(result, detail), data=_data(result, detail),
        adapters=asked if "adapter" in result.choices else [], refused=converted.refusing(detail),
        tables=[of(detail) for of in (converted.stream_table, converted.rounded_table, converted.checkpoint_table)],
        measured=streamed | {line.checkpoint for line in detail.checkpoints}, streamed=streamed,
        unstreamable=bool(ours) and all(line.perplexity is None for line in ours), command=visible(command),
        CONTROL=CONTROL, ORIGINAL=ORIGINAL, **words,
    )  # fmt: skip


def _without_folders(recipe: Any, key: str = "") -> Any:
    """The recipe with files and folders by their names alone: a card is for others."""
    if isinstance(recipe, dict):
        return {name: _without_folders(value, name) for name, value in recipe.items()}
    if isinstance(recipe, list | tuple):
        return [_without_folders(value, key) for value in recipe]
    return own_name(recipe) if key in ("name", "adapters", "files", "images") else recipe


def _front_matter(result: Result) -> dict[str, Any]:
    name, asked = result.model.name, (result.recipe.get("model") or {}).get("name")
    # A folder that was converted stands in the recipe by its full path.
    based = HUB_ID.fullmatch(name) and asked in (None, name) and not result.convert.from_scratch
    tags = ["attention-sink", "sinkctl", result.convert.mechanism]
    return {"library_name": "transformers", "tags": tags} | ({"base_model": name} if based else {})


def _begun(result: Result, detail: ConvertDetail) -> str:
    start = f" (start: {detail.settings['start']})" if "start" in detail.settings else ""
    if detail.calibration is not None:
        tokens = count(detail.calibration.tokens)
        return f"what each layer begins with{start} was computed from {tokens} tokens of text"
    if "embedding" in result.choices:
        return f"the embedding{start} is {result.choices['embedding']}"
    if start:
        return f"what it begins with{start} takes no text"
    return "the weights are random" if detail.from_scratch else "the weights are the original's"


def _data(result: Result, detail: ConvertDetail) -> str:
    used = [] if detail.calibration is None else [f"the first {count(detail.calibration.tokens)} tokens for the start"]
    used += [f"{count(detail.held_out)} held-out tokens streamed"] if detail.held_out else []
    used += [f"{count(detail.scored)} of samples predicted"] if detail.scored else []
    said = [] if detail.training is None else [f"Trained on {text_words(detail.training)}."]
    if used or "embedding" in result.choices:
        files = (result.recipe.get("text") or {}).get("files") or ()
        names = ", ".join("standard input" if file == "-" else PurePath(file).name for file in files)
        said.append(f"{names or 'The novel that comes with sinkctl'}: {', '.join(used) or 'for the embedding'}.")
    return " ".join(said) or "No text was read."
