"""Before text is generated."""

from collections.abc import Iterable
from difflib import get_close_matches

from sinkctl.check.precision import check_compiled
from sinkctl.check.texts import check_field, check_texts
from sinkctl.errors import ModelError, TextError, UsageError
from sinkctl.model.adapter_files import tokenizer_source
from sinkctl.model.files import has_chat_template
from sinkctl.model.generation_fields import MORE, NO_MATTER, NOT_USED, PROCESSORS, WARPERS
from sinkctl.recipe.schema import GenerateRecipe
from sinkctl.result.compare import check_names, parse
from sinkctl.text.records import SURROGATE

MEASURED = ("generate.tokens_per_s", "generate.ms_per_token", "generate.first_ms", "generate.last_ms",
            "generate.peak_memory")  # fmt: skip

# Fields of transformers' generation config that are said otherwise here.
ELSEWHERE = {
    "eos_token_id": "a text ends where the checkpoint says; --set stop_at_eos=false lets it go on",
    "max_new_tokens": "--generate N says how many",
    "max_length": "--generate N says how many",
    "do_sample": "--temperature 0 is greedy, above 0 it is drawn",
}


def check_inputs(recipe: GenerateRecipe) -> None:
    """Raises UsageError, ModelError or TextError."""
    rules(recipe)
    if recipe.chat and not has_chat_template(tokenizer_source(recipe.model)):
        raise ModelError(f"{recipe.model.name} has no chat template; --generate with --prompt goes on from a text")
    for text in recipe.prompts:
        check_text(text)
    check_texts(recipe.prompt_files, recipe.field, usual="prompt")


def rules(recipe: GenerateRecipe) -> None:
    """UsageError for what does not go together, whatever the model."""
    if recipe.chat:
        ignored = {"prompt-file": recipe.prompt_files, "fail-on": recipe.fail_on, "field": recipe.field}
        given = [name for name, value in ignored.items() if value]
        if given or recipe.bos != "auto":
            name = (given or ["bos"])[0]
            raise UsageError(f"--{name}: a chat takes lines from standard input, in the model's template; leave it out")
    recipe.policy.check()
    check_compiled([recipe.policy], recipe.compile)
    redistribute = recipe.policy.redistribute
    if redistribute is not None and not redistribute.settled:
        raise UsageError(
            f"--redistribute-heads {redistribute.heads}: heads are calibrated where a text is scored or questions are "
            "asked; give those its result.json names"
        )
    check_names([parse(text) for text in recipe.fail_on], MEASURED)
    _check_config(recipe.sampling.config)
    if recipe.system is not None and not recipe.chat:
        raise UsageError("--system: only a chat has a system message; add --chat")
    if recipe.template_args and not recipe.chat:
        raise UsageError(f"--template-arg {next(iter(recipe.template_args))}: only a chat has a template; add --chat")
    check_field(recipe.field, recipe.prompt_files, "prompts")
    keeps_all = recipe.policy.grows or (recipe.policy.needs_prompts and not recipe.chat)
    if keeps_all and (recipe.tokens == "endless" or recipe.chat):
        kind, what = recipe.policy.kind, "a chat" if recipe.chat else "endless text"
        raise UsageError(f"--policy {kind} keeps every token, and {what} has no end; use sink_window, or --generate N")
    if recipe.bos == "never" and not (recipe.prompts or recipe.prompt_files):
        raise UsageError("--bos never leaves nothing to start from; give --prompt TEXT or --prompt-file FILE")


def _check_config(config: Iterable[str]) -> None:
    for name in config:
        if name in MORE:
            continue
        if name in WARPERS | PROCESSORS:
            hint = f"it is sampling.{name}"
        elif name in NOT_USED:
            hint = NOT_USED[name][1].format(how="greedy or drawn")
        elif name in NO_MATTER:
            hint = ELSEWHERE.get(name, "it does not say how a token is chosen; leave it out")
        else:
            close = get_close_matches(name, MORE, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(MORE)}"
        raise UsageError(f"sampling.config.{name}: cannot be set; {hint}")


def check_text(text: str) -> None:
    """Raise TextError for what is no text: bytes of a command line or terminal that are not UTF-8."""
    if SURROGATE.search(text):
        raise TextError("a prompt is not UTF-8 text; write it in UTF-8, or give it as --prompt-file")
