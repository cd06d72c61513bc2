"""The README.md of a converted checkpoint: a model card as the Hub reads it."""

import re
import shlex
from pathlib import PurePath
from typing import Any

from sinkctl.report.converted import (
    calibration_lines,
    checkpoint_table,
    mechanism_words,
    refusing,
    rounded_table,
    start_table,
    stream_policy,
    stream_table,
)
from sinkctl.report.markdown import code, escaped, fenced, table
from sinkctl.report.printable import as_yaml, visible
from sinkctl.report.registered import register_card
from sinkctl.report.trained import has_control, steps_words, text_words, trained_words, training_facts
from sinkctl.result.convert import CONTROL, CONVERTED, ORIGINAL, ConvertDetail, Training
from sinkctl.result.numbers import count, short_count
from sinkctl.result.schema import Result

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
MOST_LAYERS = 8
LOADING = """\
from transformers import AutoModelForCausalLM, {tokenizer}

tokenizer = {tokenizer}.from_pretrained({name}{trust})
model = AutoModelForCausalLM.from_pretrained({name}{trust})
ids = tokenizer("It was a dark and stormy night", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=40)[0]))
"""


def model_card(result: Result, name: str) -> str:
    """The whole file; `name` is what the checkpoint is loaded by, a folder or a Hub id."""
    if result.registers is not None:
        return register_card(result, name)
    detail = result.convert
    assert detail is not None, "a result of convert"
    title = escaped(PurePath(name).name or name)
    lines = ["---", as_yaml(_front_matter(result)).rstrip("\n"), "---", "", f"# {title}", ""]
    lines += [escaped(line) for line in _done(result, detail)] + [""]
    lines += ["## How to load", "", *_loading(detail, name)]
    lines += ["## What it does" if detail.from_scratch else "## Before and after", "", *_compared(result, detail)]
    if detail.training is not None:
        facts = [escaped(f"{name}: {value}") for name, value in training_facts(detail.training, detail.mechanism)]
        lines += ["## Training", "", *(f"- {fact}" for fact in facts), ""]
    lines += ["## Calibration", "", *_calibration(detail)]
    lines += ["## What the tokenizer puts in front", "", *_tokenizer(detail)]
    lines += ["## Data", "", escaped(_data(result, detail)), ""]
    lines += ["## Limits", "", *(f"- {escaped(line)}" for line in [*_limits(detail), *result.notes]), ""]
    lines += ["## Recipe", "", f"Written by sinkctl {escaped(result.sinkctl_version)} with this recipe:", ""]
    return "\n".join([*lines, *fenced("yaml", as_yaml(_without_folders(result.recipe)))])


def _without_folders(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with files and folders by their names alone: a card is for others."""
    model, training = recipe.get("model") or {}, recipe.get("training") or {}
    model = model | ({"name": _own_name(str(model["name"]))} if "name" in model else {})
    model |= {"adapters": list(map(_own_name, model["adapters"]))} if "adapters" in model else {}
    settings = {"training": training | {"text": _named(training.get("text") or {})}} if training else {}
    return recipe | {"model": model, "text": _named(recipe.get("text") or {})} | settings


def _named(text: dict[str, Any]) -> dict[str, Any]:
    return text | {"files": list(map(_own_name, text.get("files") or ()))}


def _own_name(name: str) -> str:
    """A full path's last part; other names as they are."""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def _front_matter(result: Result) -> dict[str, Any]:
    name, asked = result.model.name, (result.recipe.get("model") or {}).get("name")
    # A folder that was converted stands in the recipe by its full path.
    based = HUB_ID.fullmatch(name) and asked in (None, name) and not result.convert.from_scratch
    hub = {"base_model": name} if based else {}
    tags = ["attention-sink", "sinkctl", result.convert.mechanism]
    return {"library_name": "transformers", "tags": tags} | hub


def _done(result: Result, detail: ConvertDetail) -> list[str]:
    name, mechanism = _own_name(result.model.name), mechanism_words(detail)
    size = f"{result.model.model_type}, {short_count(result.model.parameters)} parameters"
    if detail.from_scratch:
        said = f"A model of random weights ({size}), with the tokenizer of {name}, was given {mechanism}."
    else:
        said = f"{name} ({size}){_adapted(result)} was given {mechanism}."
    begun = _begun(result, detail)
    if detail.training is None:
        return [said, f"No weight was trained: {begun}."]
    return [said, *_trained(detail, detail.training), f"Training began thus: {begun}."]


def _adapted(result: Result) -> str:
    """Which adapters are in its weights."""
    if "adapter" not in result.choices:
        return ""
    named = (result.recipe.get("model") or {}).get("adapters") or [result.model.name]
    return f", with {' and '.join(f'the adapter {_own_name(str(each))}' for each in named)} in its weights,"


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


def _trained(detail: ConvertDetail, training: Training) -> list[str]:
    """Which weights, for how long, on what, and beside which control."""
    weights = trained_words(training, detail.mechanism)
    said = [f"It was trained ({weights}) for {steps_words(training)} on {training.text}."]
    if detail.mechanism == "none":
        return said
    if not has_control(training) and not _measured(detail, CONTROL):
        return [*said, "No control was trained: the same training without the mechanism."]
    if training.trained == "new":
        return [*said, "The control has nothing to train: it is the original with the same in front of its texts."]
    below = ", is compared with it below" if _measured(detail, CONTROL) else " was trained beside it"
    return [*said, f"A control, the same steps, data and seed without the mechanism{below}."]


def _control_limits(training: Training) -> str:
    what = "the original with the same in front" if training.trained == "new" else "what the same training does"
    return f"The control is {what} without the mechanism: one that does no better in perplexity has bought none."


def _measured(detail: ConvertDetail, checkpoint: str) -> bool:
    return any(line.checkpoint == checkpoint for line in (*detail.streams, *detail.checkpoints))


def _loading(detail: ConvertDetail, name: str) -> list[str]:
    trust = ", trust_remote_code=True" if detail.own_code else ""
    lines = fenced("python", LOADING.format(name=repr(name), trust=trust, tokenizer=detail.tokenizer_class))
    if detail.own_code:
        lines += [
            "The class is in the `.py` files beside the weights, which `trust_remote_code=True` lets transformers run "
            "(`AutoModel` too, without the head). Where sinkctl is installed, it loads without the flag after "
            "`import sinkctl`.",
            "",
        ]
    else:
        lines += [f"It takes a transformers that has {code(detail.model_type)}, and no code besides.", ""]
    lines += _engines(detail)
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


def _engines(detail: ConvertDetail) -> list[str]:
    """What is known of this form outside of transformers; `benchmarks/other_engines.py` ran the first."""
    if detail.own_code:
        return [f"llama.cpp and vLLM have no class {code(detail.model_type)}, and refuse it by that name.", ""]
    if detail.model_type != "granite_swa":
        return []
    return [
        "llama.cpp's `convert_hf_to_gguf.py` takes it (from b10514 on), but refuses tokenizers whose pre-tokenizer it "
        "does not know. Where heads are not as wide as `hidden_size / num_attention_heads`, it drops `head_dim`, and "
        "the file loads with `--override-kv` for `granite_swa.attention.key_length`, "
        "`granite_swa.attention.value_length` and `granite_swa.rope.dimension_count`, each `=int:` that width. vLLM "
        "has the class (read in 0.32, not run); `--disable-hybrid-kv-cache-manager` keeps its KV cache in one group. "
        "A `sliding_window` of 1,048,576 is there for llama.cpp, which wants one sliding layer: no text fills it. "
        'transformers quantizes the caches of full attention alone (`cache_implementation="quantized"`); for that, '
        '`from_pretrained(…, layer_types=["full_attention"] * LAYERS)` calls the first layer what it is.',
        "",
    ]


def _evaluating(detail: ConvertDetail) -> list[str]:
    """How lm-evaluation-harness is to be told what stands in front of a text that it scores whole."""
    if detail.mechanism == "sink_token" or detail.bos.startswith("BOS"):
        said = (
            "lm-evaluation-harness puts `bos_token` in front of texts that it scores whole (`wikitext` and other "
            "perplexities), where the tokenizer has put it already: run these tasks with "
            "`--model_args …,add_bos_token=False`, and others without."
        )
    else:
        said = (
            "lm-evaluation-harness puts the tokenizer's `bos_token` in front of texts that it scores whole (`wikitext` "
            "and other perplexities), also where the tokenizer puts none there: name an ordinary token with "
            '`--model_args …,prefix_token_id=ID`, a line break\'s say (`tokenizer.encode("\\n", '
            "add_special_tokens=False)[-1]`). Another checkpoint, whose tokenizer adds BOS, gets it twice: compare "
            "with `add_bos_token=False` there, for these tasks alone."
        )
    return [
        said,
        "Past the model's context it begins anew without BOS; the tasks of `sinkctl bench` are streamed whole, behind "
        "what the tokenizer puts in front.",
        "",
    ]


def _compared(result: Result, detail: ConvertDetail) -> list[str]:
    tables = table(stream_table(detail)) + table(rounded_table(detail)) + table(checkpoint_table(detail))
    verdict = [escaped(" ".join(result.verdict)), ""] if result.verdict else []
    other = "measured" if detail.training is not None or detail.from_scratch else "compared with the original"
    return verdict + (tables or [f"The checkpoint was not {other}.", ""])


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
    return [*lines, *_evaluating(detail)]


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


def _limits(detail: ConvertDetail) -> list[str]:
    training = detail.training
    if training is None:
        begun = (
            "its weights are random" if detail.from_scratch else "the start is computed, and no weight was fitted to it"
        )
        lines = [f"Training-free: {begun}."]
    else:
        tokens = short_count(training.steps * training.batch * training.length)
        lines = [
            f"Trained on {tokens} tokens, {count(training.length)} at a time, with one seed; others give other numbers."
        ]
    if detail.held_out or detail.scored:
        scored = f"{count(detail.held_out)} held-out tokens streamed and {count(detail.scored)} in samples"
        lines.append(f"Evaluated on {scored}, of one text; nothing is known of other texts and tasks.")
    if training is not None and detail.mechanism != "none":
        lines.append(
            _control_limits(training)
            if has_control(training) or _measured(detail, CONTROL)
            else "Without a control, nothing shows that the mechanism, and not the training, made the difference."
        )
    elif any(line.checkpoint == ORIGINAL for line in detail.streams):
        lines.append(
            "The control rows, the original with nothing in front, say what removing the first token alone costs: a "
            "mechanism that does no better has replaced nothing."
        )
    return lines
