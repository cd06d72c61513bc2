"""Policies as the command line and Python calls write them: `4+252`, `dense`, `recompute:4+252`; and precisions."""

import re
from typing import Any, get_args

from sinkctl.cache.policies import AnyPolicy
from sinkctl.cache.precision.settings import FORMATS
from sinkctl.errors import UsageError
from sinkctl.recipe.load import suggest

KINDS = [member.model_fields["kind"].default for member in get_args(get_args(AnyPolicy)[0])]


def bits(text: str) -> int | str | None:
    """`4bit`, `fp8`, … as recipe data; `full`: None."""
    if text != "full" and text not in FORMATS:
        raise UsageError(f"--kv {text}: no such precision; one of full, {', '.join(FORMATS)}")
    return FORMATS.get(text)


def policy(text: str | dict[str, Any]) -> dict[str, Any]:
    """`KIND`, `S+W` (sinks and window; 0+W is the bare window) or `recompute:S+W`, as recipe data, which is left."""
    if isinstance(text, dict):
        return text
    kind, colon, size = text.partition(":")
    if not colon and "+" in text:
        kind, size = "", text
    match = re.fullmatch(r"(\d+)\+(\d+|auto)", size) if size else None
    if (size and not match) or (kind and kind not in KINDS) or (size and kind == "dense"):
        raise UsageError(f"--policy {text}: write S+W, such as 4+252, or a kind{suggest(kind, KINDS)}")
    if not match:
        return {"kind": kind}
    sinks, window = int(match[1]), match[2] if match[2] == "auto" else int(match[2])
    kind = kind or ("sink_window" if sinks else "window")
    return {"kind": kind, "sinks": sinks, "window": window}
