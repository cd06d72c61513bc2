"""How the next token is chosen: what was asked, else what the checkpoint says; and what of that is not done."""

from typing import Any

import torch
from pydantic import ValidationError

from sinkctl.errors import ModelError, SinkctlError, UsageError
from sinkctl.model.generation_config import shown, stated, unused
from sinkctl.model.generation_fields import MORE, MORE_WARPERS, PROCESSORS, WARPERS
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import GenerateRecipe, SamplingSettings
from sinkctl.tasks.generate.history import KEPT
from sinkctl.tasks.generate.sampling import STATIC, processor_fields, sampler_for

OF_THE_CHECKPOINT = "the checkpoint's generation config"


def settle_sampling(asked: SamplingSettings, loaded: LoadedModel, choices: dict[str, str]) -> SamplingSettings:
    """Every `auto` settled, and under `config` what else of the checkpoint is done.

    Raises ModelError for a wrong value of the checkpoint's.
    """
    said, drawn_by_default = stated(loaded.model), bool(loaded.model.generation_config.do_sample)
    temperature = asked.temperature
    if temperature == "auto":
        about_a_draw = any(getattr(asked, name) not in ("auto", idle, 0) for name, idle in WARPERS.items())
        temperature = said.get("temperature", 1.0) if drawn_by_default or about_a_draw else 0.0
        if not (drawn_by_default or about_a_draw):
            choices["temperature"] = f"0: greedy, as {OF_THE_CHECKPOINT} says nothing else"
        elif "temperature" in said:
            choices["temperature"] = f"{temperature}: {OF_THE_CHECKPOINT}"
    idle = WARPERS | PROCESSORS
    if temperature == 0:
        said = {name: value for name, value in said.items() if name not in WARPERS | MORE_WARPERS}
    elif drawn_by_default and loaded.model.generation_config.top_k is None:
        idle["top_k"] = 50  # what `generate` takes where a checkpoint draws and names no more
    found: dict[str, Any] = {"temperature": temperature}
    for name in idle:
        value = found.get(name, getattr(asked, name))
        if value == "auto":
            value = said.get(name, idle[name])
            value = None if (name, value) == ("top_k", 0) else value
            if name in said:
                choices[name] = f"{value}: {OF_THE_CHECKPOINT}"
        found[name] = value
    more = {name: value for name, value in said.items() if name in MORE and name not in asked.config}
    choices |= {name: f"{shown(value)}: {OF_THE_CHECKPOINT}" for name, value in more.items()}
    try:
        return SamplingSettings(**found, config=more | asked.config, seed=asked.seed)
    except ValidationError as error:
        (name, *_), said = error.errors()[0]["loc"], error.errors()[0]["msg"]
        flag = f"--{name.replace('_', '-')}"
        raise ModelError(
            f"{loaded.name}: {name} {found[name]} of its generation config: {said}; give {flag}"
        ) from error


def sampling_notes(recipe: GenerateRecipe, asked: GenerateRecipe, longest: int, loaded: LoadedModel) -> list[str]:
    """What of the checkpoint's settings a settled recipe leaves out, and where what it takes in ends."""
    sampling, config = recipe.sampling, loaded.model.generation_config
    notes = [f"{note}." for note in unused(loaded.model, "greedy" if sampling.temperature == 0 else "drawn").values()]
    for name in ("max_new_tokens", "max_length"):
        value = getattr(config, name, None)
        if value is not None and "tokens" not in asked.model_fields_set:
            why = f"--generate says how many tokens, {recipe.tokens} where it is not given"
            notes.append(f"{name} {value} of {OF_THE_CHECKPOINT} is not used: {why}.")
    endless = recipe.tokens == "endless"
    if endless and sampling.config.get("forced_eos_token_id") is not None:
        notes.append("forced_eos_token_id is not used: endless text has no last token.")
    if sampling.no_repeat_ngram_size and (endless or recipe.chat or longest + recipe.tokens > KEPT):
        notes.append(f"no_repeat_ngram_size looks back {KEPT:,} tokens; what stands further back may come again.")
    return notes


def outside_of_graph(sampling: SamplingSettings) -> str | None:
    """Why the choice of a token cannot be part of a captured step; None where it can."""
    names = sorted(processor_fields(sampling).keys() - STATIC)
    return f"a token is chosen after it, as {', '.join(names)} asks the host" if names else None


def check_processors(recipe: GenerateRecipe, asked: SamplingSettings, loaded: LoadedModel) -> None:
    """Choose once from nothing, so that a value that transformers does not take is named before a text is read."""
    width = loaded.model.config.get_text_config().vocab_size
    try:
        sampler = sampler_for(recipe, 1, loaded)
        sampler.scores(torch.zeros(1, width, device=loaded.device), [torch.zeros(1, dtype=torch.int64)])
    except (ValueError, IndexError, TypeError, RuntimeError) as error:
        kind: type[SinkctlError] = UsageError if asked.config else ModelError
        said = " ".join(str(error).split())[:200]
        names = ", ".join(recipe.sampling.config) or "its generation config"
        raise kind(
            f"{loaded.name}: transformers does not take {names}: {said}; "
            "leave a field out with --set sampling.config.FIELD=null"
        ) from error
