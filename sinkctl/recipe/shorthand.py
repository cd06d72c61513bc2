"""Policies as the command line and Python calls write them: `4+252`, `heavy_hitter:4+252`; and precisions."""

import os
import re
from types import NoneType
from typing import Any, get_args

from sinkctl.cache.policies import AnyPolicy
from sinkctl.cache.precision.settings import FORMATS
from sinkctl.errors import UsageError
from sinkctl.recipe.far_heads import far_heads
from sinkctl.recipe.load import suggest

_FIELDS = {member.model_fields["kind"].default: member.model_fields for member in get_args(get_args(AnyPolicy)[0])}
KINDS = list(_FIELDS)
RARELY = [kind for kind, fields in _FIELDS.items() if "every" in fields]
NEVER_ROUNDED = [kind for kind, fields in _FIELDS.items() if fields["precision"].annotation is NoneType]

SHARE = 0.25  # of the heads, whole where nothing is said


def bits(text: str, flag: str = "--kv") -> int | str | None:
    """`4bit`, `fp8`, … as recipe data; `full`: None."""
    if text != "full" and text not in FORMATS:
        raise UsageError(f"{flag} {text}: no such precision; one of full, {', '.join(FORMATS)}")
    return FORMATS.get(text)


def policy(text: str | dict[str, Any]) -> dict[str, Any]:
    """As recipe data, which is left as it is: `KIND`, `S+W` (sinks and window; 0+W is the bare window),
    `recompute:S+W@N` (scoring one token in N), `heavy_hitter:S+W@N` (evicting once in N), `layers:S+W:0,8`,
    `heads:S+W:RUN@0.25`.
    """
    if isinstance(text, dict):
        return text
    kind, colon, size = text.partition(":")
    if kind == "layers":
        return _per_layer(text, size)
    if kind == "heads":
        return _per_head(text, size)
    if not colon and "+" in text:
        kind, size = "", text
    match = re.fullmatch(r"(\d+)\+(\d+|auto)(?:@([1-9]\d*))?", size) if size else None
    sized, at, _ = size.partition("@")
    if at and re.fullmatch(r"\d+\+(\d+|auto)", sized) and (kind == "" or kind in KINDS):
        if kind not in RARELY:
            raise UsageError(f"--policy {text}: only {', '.join(RARELY)} take @N; leave it out")
        if match is None:
            raise UsageError(f"--policy {text}: @N is a whole number of tokens, at least 1; write {kind}:{sized}@16")
    if (size and not match) or (kind and kind not in KINDS) or (size and kind == "dense"):
        raise UsageError(
            f"--policy {text}: write S+W, such as 4+252, or a kind{'' if kind in KINDS else suggest(kind, KINDS)}"
        )
    if not match:
        return {"kind": kind}
    found = _sizes(text, match) | ({"every": int(match[3])} if match[3] else {})
    return {"kind": kind or ("sink_window" if found["sinks"] else "window"), **found}


def _per_layer(text: str, size: str) -> dict[str, Any]:
    match = re.fullmatch(r"(\d+)\+(\d+|auto):(\d+(?:,\d+)*)", size)
    if not match:
        raise UsageError(f"--policy {text}: say which layers stay whole, such as layers:4+252:0,15")
    return {"kind": "layers", "whole": [int(number) for number in match[3].split(",")], **_sizes(text, match)}


def _per_head(text: str, size: str) -> dict[str, Any]:
    match = re.fullmatch(r"(\d+)\+(\d+|auto):(.+?)(?:@(0?\.\d+))?", size)
    if not match:
        raise UsageError(
            f"--policy {text}: name a run of `sinkctl measure -o RUN` that says which heads look far, such as "
            f"heads:4+252:RUN@0.25, which keeps a quarter of them whole"
        )
    run, at, share = match[3].rpartition("@")
    if at and match[4] is None and not os.path.exists(match[3]):
        raise UsageError(f"--policy {text}: @{share} is no share of the heads; write {run}@0.25 for a quarter of them")
    return {"kind": "heads", "whole": far_heads(match[3], float(match[4] or SHARE)), **_sizes(text, match)}


def _sizes(text: str, match: re.Match) -> dict[str, Any]:
    if match[2].isdecimal() and int(match[2]) == 0:
        raise UsageError(f"--policy {text}: a window of 0 tokens; the window W of S+W is 1 or more")
    return {"sinks": int(match[1]), "window": match[2] if match[2] == "auto" else int(match[2])}
