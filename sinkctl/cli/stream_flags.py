"""The flags of `sinkctl stream`, which has three tasks: which recipe they make."""

from collections.abc import Sequence
from typing import Any

from sinkctl.cli.build import MODEL, build, number
from sinkctl.cli.redistribute_flags import redistribution
from sinkctl.errors import UsageError

_COMMON = MODEL | {"chunk": "chunk"}
_SAMPLING = {
    name: f"sampling.{name.replace('-', '_')}"
    for name in (
        "temperature", "top-k", "top-p", "min-p", "repetition-penalty", "no-repeat-ngram-size", "min-new-tokens", "seed"
    )
}  # fmt: skip
FIELDS = {
    "stream": _COMMON | {
        "FILE": "text.files", "field": "text.field", "errors": "text.errors", "bos": "text.bos",
        "bos each": "text.bos_each_file",
        "each": "text.each", "rows": "rows", "limit": "limit", "by": "passages.by", "top": "passages.top",
        "save-as": "passages.save_as",
    },
    "generate": _COMMON | _SAMPLING | {
        "generate": "tokens", "prompt": "prompts", "prompt-file": "prompt_files", "field": "field", "bos": "bos",
        "chat": "chat", "system": "system", "template-arg": "template_args",
    },
    "questions": _COMMON | {"questions": "questions", "bos": "bos", "limit": "limit"},
}  # fmt: skip
# Flags that say which task is meant.
TELLING = {
    "generate": ("generate", "prompt", "prompt-file", "chat", "system", "template-arg"),
    "questions": ("questions",),
}


def stream_recipe(
    flags: dict[str, Any], *, policies: Sequence[str], sinks: int | None, window: str | None, kv: Sequence[str],
    kv_keep: Sequence[str], kv_recent: int | None, redistribute: Sequence[str], redistribute_heads: str | None,
    redistribute_text: Sequence[str], **options: Any,
):  # fmt: skip
    """The validated recipe; `options` as `build` takes them."""

    def complete(data: dict[str, Any]) -> None:
        _size(data, policies, sinks, window)
        _precision(data, kv, kv_keep, kv_recent)
        redistribution(data, redistribute, redistribute_heads, redistribute_text)

    given = {
        ("sinks",): ("--sinks", sinks), ("window",): ("--window", window), ("precision", "bits"): ("--kv", kv),
        ("precision", "keep"): ("--kv-keep", kv_keep), ("precision", "recent"): ("--kv-recent", kv_recent),
        ("redistribute", "share"): ("--redistribute", redistribute),
        ("redistribute", "heads"): ("--redistribute-heads", redistribute_heads),
    }  # fmt: skip
    return build(
        flags, FIELDS, _task(flags), misplaced=_misplaced, complete=complete,
        named={
            (*place, *keys): flag
            for keys, (flag, value) in given.items()
            for place in (("policies", "*"), ("policy",))
            if value not in (None, [])
        },
        **options,
    )  # fmt: skip


def template_args(given: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE as YAML reads the value."""
    from sinkctl.recipe.load import assigned

    return dict(assigned(text, f"--template-arg {text}", "enable_thinking=false") for text in given)


def _task(flags: dict[str, Any]) -> str:
    return next((task for task, told in TELLING.items() if any(flags[name] is not None for name in told)), "stream")


def _misplaced(name: str, value: Any, task: str) -> str:
    if name == "FILE":
        instead = "--prompt-file gives a prompt" if task == "generate" else "the text is in the questions' file"
        return f"{value[0]}: a file alone is scored, which --{task} does not; {instead}"
    other = next((task for task, flags in TELLING.items() if name in flags), None)
    if other is not None and task in TELLING:
        return f"--{name}: generation and questions are runs of their own; give one or the other"
    tasks = {"stream": "scoring", "generate": "generation (--generate, --chat)", "questions": "--questions"}
    belongs = next(what for other, what in tasks.items() if name in FIELDS[other])
    return f"--{name} is for {belongs}, not for {tasks[task]}"


def _size(data: dict[str, Any], policies: Sequence[str], sinks: int | None, window: str | None) -> None:
    """--policy, --sinks and --window into the recipe."""
    from sinkctl.recipe.shorthand import policy

    single = data["task"] == "generate"
    if policies:
        chosen = [policy(p) for p in policies]
        if single and len(chosen) > 1:
            raise UsageError(f"--policy {policies[1]}: text is generated under one policy; give one")
        data["policy" if single else "policies"] = chosen[0] if single else chosen
    sized = next((p for p in policies if "+" in p), None)
    if sized is not None and (sinks is not None or window is not None):
        raise UsageError(f"--policy {sized} says its own size; leave --sinks and --window out, or write --policy KIND")
    if single:
        chosen = [data.setdefault("policy", {"kind": "sink_window"})]
    else:
        chosen = data.setdefault("policies", [{"kind": "sink_window"}])
    settings = [p for p in chosen if isinstance(p, dict)] if isinstance(chosen, list) else []
    for flag, value, kinds in (
        ("sinks", sinks, ("sink_window", "recompute")),
        ("window", window and number(window), ("sink_window", "window", "recompute")),
    ):
        having = [each for each in settings if each.get("kind") in kinds]
        if value is not None and settings and not having:
            raise UsageError(f"--{flag} {value}: none of the policies has {flag}")
        for each in having if value is not None else ():
            each[flag] = value


def _precision(data: dict[str, Any], kv: Sequence[str], keep: Sequence[str], recent: int | None) -> None:
    """--kv, --kv-keep and --kv-recent into the recipe: every policy with a cache, at every precision."""
    from sinkctl.recipe.shorthand import NEVER_ROUNDED, bits

    own = {"recent": recent} if recent is not None else {}
    given = [f"--kv {each}" for each in kv] + [f"--kv-keep {each}" for each in keep]
    given += [] if recent is None else [f"--kv-recent {recent}"]
    if not given:
        return
    rounded = [each for each in map(bits, kv) if each is not None]
    if not rounded and (keep or own):
        raise UsageError(f"{given[-1]}: nothing is rounded; give --kv 4bit, or another precision")
    ways = [None] * ("full" in kv)
    ways += [{"bits": each, **own, **kept} for each in rounded for kept in ([{"keep": k} for k in keep] or [{}])]
    single = data["task"] == "generate"
    if single and len(ways) > 1:
        raise UsageError(f"{given[1]}: text is generated at one precision; give one")
    policies = [data["policy"]] if single else data["policies"]
    if all(each.get("kind") in NEVER_ROUNDED for each in policies if isinstance(each, dict)):
        raise UsageError(f"{given[0]}: what {policies[0]['kind']} keeps cannot be rounded; leave it out")
    found = [
        each if each.get("kind") in NEVER_ROUNDED else {**each, "precision": way}
        for each in policies
        for way in (ways[:1] if each.get("kind") in NEVER_ROUNDED else ways)
    ]
    data["policy" if single else "policies"] = found[0] if single else found
