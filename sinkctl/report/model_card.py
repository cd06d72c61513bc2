"""The README.md of a converted checkpoint: a model card as the Hub reads it."""

import re
import shlex
from pathlib import PurePath
from typing import Any

from sinkctl.report.converted import (
    CONVERTED,
    calibration_lines,
    checkpoint_table,
    mechanism_words,
    refusing,
    start_table,
    stream_policy,
    stream_table,
)
from sinkctl.report.markdown import code, escaped, fenced, table
from sinkctl.report.printable import as_yaml, visible
from sinkctl.report.units import count, short_count
from sinkctl.result.convert import ConvertDetail
from sinkctl.result.schema import Result

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
MOST_LAYERS = 8
LOADING = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name}{trust})
model = AutoModelForCausalLM.from_pretrained({name}{trust})
ids = tokenizer("It was a dark and stormy night", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=40)[0]))
"""


def model_card(result: Result, name: str) -> str:
    """The whole file; `name` is what the checkpoint is loaded by, a folder or a Hub id."""
    detail = result.convert
    assert detail is not None, "a result of convert"
    title = escaped(PurePath(name).name or name)
    lines = ["---", as_yaml(_front_matter(result)).rstrip("\n"), "---", "", f"# {title}", ""]
    lines += [escaped(line) for line in _done(result, detail)] + [""]
    lines += ["## How to load", "", *_loading(detail, name)]
    lines += ["## Before and after", "", *_compared(result, detail)]
    lines += ["## Calibration", "", *_calibration(detail)]
    lines += ["## What the tokenizer puts in front", "", *_tokenizer(detail)]
    lines += ["## Data", "", escaped(_data(result, detail)), ""]
    lines += ["## Limits", "", *(f"- {escaped(line)}" for line in [*_limits(detail), *result.notes]), ""]
    lines += ["## Recipe", "", f"Written by sinkctl {escaped(result.sinkctl_version)} with this recipe:", ""]
    return "\n".join([*lines, *fenced("yaml", as_yaml(_without_folders(result.recipe)))])


def _without_folders(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with files and folders by their names alone: a card is for others."""
    model, text = recipe.get("model") or {}, recipe.get("text") or {}
    name = str(model.get("name", ""))
    model = model | ({"name": PurePath(name).name} if PurePath(name).is_absolute() else {})
    files = [PurePath(file).name if PurePath(file).is_absolute() else file for file in text.get("files") or ()]
    return recipe | {"model": model, "text": text | {"files": files}}


def _front_matter(result: Result) -> dict[str, Any]:
    name, asked = result.model.name, (result.recipe.get("model") or {}).get("name")
    # A folder that was converted stands in the recipe by its full path.
    hub = {"base_model": name} if HUB_ID.fullmatch(name) and asked in (None, name) else {}
    tags = ["attention-sink", "sinkctl", result.convert.mechanism]
    return {"library_name": "transformers", "tags": tags} | hub


def _done(result: Result, detail: ConvertDetail) -> list[str]:
    model = result.model
    size = f"{model.model_type}, {short_count(model.parameters)} parameters"
    start = f" (start: {detail.settings['start']})" if "start" in detail.settings else ""
    if detail.calibration is not None:
        tokens = count(detail.calibration.tokens)
        begun = f"what each layer begins with{start} was computed from {tokens} tokens of text"
    elif "embedding" in result.choices:
        begun = f"the embedding{start} is {result.choices['embedding']}"
    else:
        begun = f"what it begins with{start} takes no text" if start else "the weights are the original's"
    name = PurePath(model.name).name if PurePath(model.name).is_absolute() else model.name
    return [f"{name} ({size}) was given {mechanism_words(detail)}.", f"No weight was trained: {begun}."]


def _loading(detail: ConvertDetail, name: str) -> list[str]:
    trust = ", trust_remote_code=True" if detail.own_code else ""
    lines = fenced("python", LOADING.format(name=repr(name), trust=trust))
    if detail.own_code:
        lines += [
            "The class is in the `.py` files beside the weights, which `trust_remote_code=True` lets transformers run. "
            "Where sinkctl is installed, it loads without the flag after `import sinkctl`.",
            "",
        ]
    else:
        lines += [f"It takes a transformers that has {code(detail.model_type)}, and no code besides.", ""]
    runs, refused = (", ".join(map(code, names)) for names in (detail.attention, refusing(detail)))
    said = f"As `attn_implementation`, {runs} can be named" + (f"; transformers refuses {refused}" if refused else "")
    held = f"As loaded, weights are {escaped(detail.dtype)}"
    if detail.parameters > 0:
        held += f", its {count(detail.parameters)} new parameters {escaped(detail.sink_dtype)}"
    lines += [f"{said}. {held}.", ""]
    ours = [line for line in detail.streams if line.checkpoint == CONVERTED]
    if ours and all(line.perplexity is None for line in ours):
        return [*lines, "It cannot be streamed; see the limits.", ""]
    command = f"sinkctl stream --model {shlex.quote(name)} -p {shlex.quote(stream_policy(detail))} book.txt"
    return [*lines, "A text of any length through it, in constant memory:", "", *fenced("sh", visible(command))]


def _compared(result: Result, detail: ConvertDetail) -> list[str]:
    tables = table(stream_table(detail)) + table(checkpoint_table(detail))
    verdict = [escaped(" ".join(result.verdict)), ""] if result.verdict else []
    return verdict + (tables or ["The checkpoint was not compared with the original.", ""])


def _calibration(detail: ConvertDetail) -> list[str]:
    if detail.calibration is None:
        return ["None: the start takes no statistics of a text.", ""]
    words = escaped(" ".join(calibration_lines(detail.calibration)))
    return [words, "", *table(start_table(detail.calibration, MOST_LAYERS))]


def _tokenizer(detail: ConvertDetail) -> list[str]:
    lines = [f"{escaped(detail.bos)}.", ""]
    if detail.mechanism == "sink_token":
        chats = "A chat from `apply_chat_template` has the token already: tokenize it with `add_special_tokens=False`."
        lines += [chats, ""]
    return lines


def _data(result: Result, detail: ConvertDetail) -> str:
    used = [] if detail.calibration is None else [f"the first {count(detail.calibration.tokens)} tokens for the start"]
    used += [f"{count(detail.held_out)} held-out tokens streamed"] if detail.held_out else []
    used += [f"{count(detail.scored)} of samples predicted"] if detail.scored else []
    if not used and "embedding" not in result.choices:
        return "No text was read."
    files = (result.recipe.get("text") or {}).get("files") or ()
    names = ", ".join("standard input" if file == "-" else PurePath(file).name for file in files)
    return f"{names or 'The novel that comes with sinkctl'}: {', '.join(used) or 'for the embedding'}."


def _limits(detail: ConvertDetail) -> list[str]:
    lines = ["Training-free: the start is computed, and no weight was fitted to it."]
    if detail.held_out or detail.scored:
        scored = f"{count(detail.held_out)} held-out tokens streamed and {count(detail.scored)} in samples"
        lines.append(f"Evaluated on {scored}, of one text; nothing is known of other texts and tasks.")
    if detail.streams:
        lines.append(
            "The control rows, the original with nothing in front, say what removing the first token alone costs: a "
            "mechanism that does no better has replaced nothing."
        )
    return lines
