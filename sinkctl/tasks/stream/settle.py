"""A recipe and a model → what will be run: every `auto` settled, every name full, each choice with its reason."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sinkctl.cache.policies import Policy
from sinkctl.cache.precision import predicted
from sinkctl.check.stream import different, measured, rules
from sinkctl.errors import ModelError
from sinkctl.model.block_layers import worth_compiling_blocks
from sinkctl.model.load import DEMO, LoadedModel
from sinkctl.model.memory import auto_chunk
from sinkctl.model.named import absolute
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.result.compare import check_names, parse
from sinkctl.text import compression, fingerprint

BUILT_IN = str(DEMO / "text.txt")


@dataclass(frozen=True)
class Settled:
    """What a run does, in full."""

    recipe: StreamRecipe
    files: tuple[str, ...]
    names: tuple[str, ...]  # of the files, as people read them
    bos_id: int | None  # put in front, or None
    bos: str  # the same in words
    choices: dict[str, str] = field(default_factory=dict)  # what was chosen → "value: reason"


def settle(recipe: StreamRecipe, loaded: LoadedModel) -> Settled:
    """Raises UsageError or ModelError for what cannot be run."""
    if loaded.tokenizer is None:
        raise ModelError(f"{loaded.name} has no tokenizer, so no text can be streamed through it")
    rules(recipe)
    choices = dict(loaded.choices)
    policies = resolved(recipe.policies, loaded, choices)
    labels = [policy.label for policy in policies]
    check_names([parse(text) for text in recipe.fail_on], measured(labels))
    named = tuple(map(absolute, recipe.text.files))  # so that the kept recipe runs and resumes from any folder
    files = named or (BUILT_IN,)
    bos_id, bos = bos_rule(recipe.text.bos, loaded)
    if bos_id is not None:
        every = "text" if recipe.text.each is not None else "file" if recipe.text.bos_each_file else None
        bos += ", once, in front of the text" if every is None else f", in front of every {every}"
    chunk, compile_ = recipe.chunk, recipe.compile
    if chunk == "auto":
        chunk, choices["chunk"] = auto_chunk(loaded)
    if recipe.text.each is not None and recipe.rows == "auto":
        choices["rows"] = f"auto: as many texts as a forward pass of {chunk:,} tokens holds, padding included"
    if compile_ == "auto":
        compile_, reason = worth_compiling_blocks(loaded.model, loaded.device, expected_tokens(recipe))
        if any(policy.precision is not None and policy.precision.predicts for policy in policies):
            compile_, reason = False, "a layer's output tells predicted tokens, and compiled layers do not show it"
        choices["compile"] = f"{'on' if compile_ else 'off'}: {reason}"
    settled = {
        "policies": policies,
        "chunk": chunk,
        "compile": compile_,
        "text": recipe.text.model_copy(update={"files": named}),
        "model": model_in_full(recipe.model),
    }
    names = tuple(map(_shown, named)) or ("built-in text",)
    return Settled(recipe.model_copy(update=settled), files, names, bos_id, bos, choices)


def resolved(policies: Sequence[Policy], loaded: LoadedModel, choices: dict[str, str]) -> tuple[Policy, ...]:
    """Every policy with its size, and what tells its predicted tokens; the reasons are added to `choices`.

    Raises UsageError where two are the same, ModelError where nothing tells.
    """
    found = []
    for policy in policies:
        settled, reason = policy.resolve(loaded.context)
        if settled != policy:
            choices[f"window of {settled.label}"] = reason
        asked = settled.redistribute
        if asked is not None:
            asked = asked.model_copy(update={"files": tuple(map(absolute, asked.files))})
            settled = settled.model_copy(update={"redistribute": asked})
            if asked.searched:
                choices[f"heads of {settled.label}"] = asked.reason
        found.append(settled)
    different(found)
    for policy, settled in zip(found, predicting := predicted.settled(found, loaded), strict=True):
        if settled != policy:
            choices[f"predicted tokens of {settled.label}"] = settled.precision.massive.reason
    return tuple(predicting)


def expected_tokens(recipe: StreamRecipe) -> float | None:
    """What is scored at most; about four bytes a token, one where the text is compressed; None for a pipe."""
    if recipe.limit is not None and recipe.text.each is None:
        return recipe.limit
    found = fingerprint(tuple(map(absolute, recipe.text.files)) or (BUILT_IN,))
    if any(file["size"] is None for file in found):
        return None
    return sum(file["size"] / (4 if compression(file["path"]) is None else 1) for file in found)


def model_in_full(settings: ModelSettings) -> ModelSettings:
    """The same with its folders by their full paths."""
    adapters = tuple(map(absolute, settings.adapters))
    return settings.model_copy(update={"name": absolute(settings.name), "adapters": adapters})


def _shown(path: str) -> str:
    """Relative to here where that is shorter to read."""
    return os.path.relpath(path) if path != "-" and Path(path).is_relative_to(Path.cwd()) else path


def bos_rule(asked: str, loaded: LoadedModel) -> tuple[int | None, str]:
    """(BOS id to put in front or None, what was done in words)."""
    if asked == "never":
        return None, "no BOS: --bos never"
    if asked == "always":
        if loaded.bos_id is None:
            raise ModelError(f"--bos always: {loaded.name} has no BOS token")
        return loaded.bos_id, "BOS: --bos always"
    if loaded.uses_bos:
        return loaded.bos_id, "BOS: the tokenizer adds one"
    return None, "no BOS: the tokenizer adds none"
