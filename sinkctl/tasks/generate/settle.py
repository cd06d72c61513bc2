"""A generation recipe and a model → what will be run: every `auto` settled, each choice with its reason."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sinkctl.cache.policies import Evicting, Policy, RandomKept
from sinkctl.cache.precision.steps import not_captured
from sinkctl.check.generate import check_text, rules
from sinkctl.errors import ModelError, TextError, UsageError
from sinkctl.model.attention import sinks_of
from sinkctl.model.compiled import is_mixture, never_compiled
from sinkctl.model.lengths import changes
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import auto_chunk
from sinkctl.model.named import absolute
from sinkctl.model.quantized import is_quantized
from sinkctl.model.recurrent import recurrent_cache
from sinkctl.recipe.schema import GenerateRecipe
from sinkctl.tasks.generate.decoder import lengths_of
from sinkctl.tasks.generate.ends import end_of_sequence
from sinkctl.tasks.generate.settle_sampling import (
    check_processors,
    outside_of_graph,
    sampling_notes,
    settle_sampling,
)
from sinkctl.tasks.stream.settle import bos_rule, model_in_full, resolved
from sinkctl.text import RecordDecoder, Source, SpecialTokens, TokenStream, holds_records

# Compiling takes 5 to 10 s and saves 2 ms a token of a 7B model.
REPAYS_COMPILING = 10_000


@dataclass(frozen=True)
class Settled:
    """What a run does, in full."""

    recipe: GenerateRecipe
    prompts: tuple[Tensor, ...]  # ids, [T] each
    begins_with_bos: bool
    bos: str  # the same in words
    eos_ids: frozenset[int]  # where a row stops; none: it goes on
    stop_strings: tuple[str, ...] = ()  # the same, as text
    choices: dict[str, str] = field(default_factory=dict)  # what was chosen → "value: reason"
    notes: tuple[str, ...] = ()  # on the prompts, and what the checkpoint says that is not done


def settle(recipe: GenerateRecipe, loaded: LoadedModel) -> Settled:
    """Raises UsageError, TextError or ModelError for what cannot be run."""
    if loaded.tokenizer is None:
        raise ModelError(f"{loaded.name} has no tokenizer, so it cannot be given a prompt")
    choices = dict(loaded.choices)
    rules(recipe)
    (policy,) = resolved([recipe.policy], loaded, choices)
    bos_id, bos = bos_rule(recipe.bos, loaded)
    special = SpecialTokens(loaded.tokenizer, loaded.rows, bos_id)
    prompts = () if recipe.chat else _prompts(recipe, bos_id, loaded, special)
    bare = not (recipe.chat or recipe.prompts or recipe.prompt_files)
    if bare:
        bos = "started from BOS, as no prompt was given"
    stop, endless = recipe.stop_at_eos, recipe.tokens == "endless"
    if stop == "auto":
        stop = recipe.chat or not endless
        choices["stop_at_eos"] = (
            f"{'on' if stop else 'off'}: {'endless' if not stop else 'a turn' if recipe.chat else 'a number of tokens'}"
        )
    sampling = settle_sampling(recipe.sampling, loaded, choices)
    if loaded.without_text:
        choices["vocabulary"] = (
            f"{loaded.rows - len(loaded.without_text):,} of {loaded.rows:,} ids: the others are no token of the "
            "tokenizer, and never chosen"
        )
    chunk, graph, compile_ = recipe.chunk, recipe.graph, recipe.compile
    if chunk == "auto":
        chunk, choices["chunk"] = auto_chunk(loaded)
    if graph == "auto":
        graph, reason = can_capture(loaded, policy)
        outside = outside_of_graph(sampling) if graph else None
        choices["graph"] = f"{'on' if graph else 'off'}: {reason}{'; ' + outside if outside else ''}"
    elif graph and not can_capture(loaded, policy)[0]:
        raise ModelError(f"a step cannot be captured: {can_capture(loaded, policy)[1]}; set graph to auto")
    if compile_ == "auto":
        compile_, reason = _worth_compiling(loaded, recipe)
        choices["compile"] = f"{'on' if compile_ else 'off'}: {reason}"
    settled = {
        "policy": policy,
        "stop_at_eos": stop,
        "sampling": sampling,
        "chunk": chunk,
        "graph": graph,
        "compile": compile_,
        "prompt_files": tuple(map(absolute, recipe.prompt_files)),
        "model": model_in_full(recipe.model),
    }
    done = recipe.model_copy(update=settled)
    check_processors(done, recipe.sampling, loaded)
    strings = sampling.config.get("stop_strings") or ()
    return Settled(
        done, prompts, bare or bos_id is not None, bos,
        eos_ids=end_of_sequence(loaded) if stop else frozenset(),
        stop_strings=((strings,) if isinstance(strings, str) else tuple(strings)) if stop else (),
        choices=choices,
        notes=(*special.notes(), *sampling_notes(done, recipe, max(map(len, prompts), default=0), loaded)),
    )  # fmt: skip


def can_capture(loaded: LoadedModel, policy: Policy) -> tuple[bool, str]:
    """Whether a step can become a CUDA graph, and why."""
    if loaded.device.type != "cuda":
        return False, "no CUDA device"
    if policy.kind == "recompute":
        return False, "recomputation has no step to capture"
    if isinstance(policy, RandomKept) or policy.needs_prompts:
        return False, f"{policy.kind} moves what it keeps, so that a step's memory changes"
    if isinstance(policy, Evicting) and changes(loaded.model.config):
        return (
            False,
            f"rows may turn by frequencies of their own, and {policy.kind} then takes them one after the other",
        )
    if policy.redistribute is not None:
        return False, "redistributed heads have no kernel for single tokens, which go through as blocks do"
    if recurrent_cache(loaded.model) is not None:
        return False, "recurrent layers keep their state in a cache that is not static"
    if loaded.sharers > 1:
        return False, "processes share the model, and add up what they find between its layers"
    if len({parameter.device for parameter in loaded.model.parameters()}) > 1:
        return False, "the model is spread over devices"
    if is_quantized(loaded.model):
        return False, "its quantized weights are run as transformers runs them"
    if is_mixture(loaded.model):
        return False, "a mixture of experts asks the host which ones to run"
    if not all(change.once for change in changes(loaded.model.config)):
        return False, "its rotary embedding (dynamic NTK) asks the host how long the text is"
    if policy.precision is not None and (why := not_captured(lengths_of(loaded, policy).last.layers, policy)):
        return False, why
    sink = next((sink for sink in sinks_of(loaded.model) if sink.key is not None or not sink.normalises), None)
    if sink is not None:
        return False, f"{sink.kind} has no kernel for single tokens, which go through as blocks do"
    return True, "a step has static shapes"


def _worth_compiling(loaded: LoadedModel, recipe: GenerateRecipe) -> tuple[bool, str]:
    if (why := never_compiled(loaded.model, loaded.device)) is not None:
        return False, why
    if recipe.policy.precision is not None and recipe.policy.precision.predicts:
        return False, "a layer's output tells predicted tokens, and compiled layers do not show it"
    if recipe.tokens != "endless" and recipe.tokens < REPAYS_COMPILING:
        return False, f"{recipe.tokens:,} tokens are too few to repay compiling"
    return True, f"{recipe.tokens} tokens repay compiling"


def _prompts(
    recipe: GenerateRecipe, bos_id: int | None, loaded: LoadedModel, special: SpecialTokens
) -> tuple[Tensor, ...]:
    """The ids of every prompt: those given as texts, then those of files."""
    found = [_ids(text, loaded) for text in recipe.prompts]
    for name in recipe.prompt_files:
        if holds_records(name, recipe.field):
            source = Source(name)
            data = b"".join(iter(lambda source=source: source.read(1 << 20), b""))
            source.close()
            each = RecordDecoder(name, recipe.field or "prompt", "strict").each(data)
            own = [_ids(text, loaded) for text in each]
            if not own:
                raise TextError(f"{name}: holds no record, so there is no prompt; write one a line")
            found += own
        else:  # a book, say
            found.append(
                np.concatenate([np.empty(0, np.int64), *(b.ids for b in TokenStream([name], loaded.tokenizer))])
            )
    if not found:
        if loaded.bos_id is None:
            raise UsageError(f"{loaded.name} has no BOS token to start from; give --prompt TEXT or --prompt-file FILE")
        return (torch.tensor([loaded.bos_id]),)
    for number, ids in enumerate(found, 1):
        special.add(ids, bos_id, "the prompt" if len(found) == 1 else f"prompt {number}")
    if bos_id is not None:
        found = [np.concatenate([[bos_id], ids]) for ids in found]
    if min(map(len, found)) == 0:
        raise TextError("a prompt is empty, and the model starts with no BOS token; write something")
    return tuple(torch.from_numpy(np.asarray(ids, np.int64)) for ids in found)


def _ids(text: str, loaded: LoadedModel) -> np.ndarray:
    check_text(text)
    return np.array(loaded.tokenizer(text, add_special_tokens=False).input_ids, np.int64)
