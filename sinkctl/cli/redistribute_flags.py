"""`--redistribute` and what goes with it, into the policies of a recipe."""

from collections.abc import Sequence
from typing import Any

from sinkctl.errors import UsageError

HEADS = "all, calibrate, or LAYER.HEAD with commas between, such as 3.0,5.2"


def redistribution(data: dict[str, Any], shares: Sequence[str], heads: str | None, files: Sequence[str]) -> None:
    """Every policy at full precision that keeps the first token: as it is, and with every share redistributed.

    Heads that are calibrated get as many random ones beside them. Text is generated with the share alone.
    """
    if not shares:
        if heads is not None or files:
            flag = f"--redistribute-heads {heads}" if heads is not None else f"--redistribute-text {files[0]}"
            raise UsageError(f"{flag}: nothing is redistributed; give --redistribute SHARE")
        return
    meant = ["all"] if heads is None else [_heads(heads)]
    if files and meant != ["calibrate"]:
        raise UsageError(f"--redistribute-text {files[0]}: no heads are calibrated; add --redistribute-heads calibrate")
    single = data["task"] == "generate"
    if single and len(shares) > 1:
        raise UsageError(f"--redistribute {shares[1]}: text is generated with one share; give one")
    meant += ["random"] if meant == ["calibrate"] and not single else []
    ways = [
        {"share": share, "heads": each, **({"files": list(files)} if files else {})}
        for share in shares
        for each in meant
    ]
    if single:
        data["policy"] = {**data["policy"], "redistribute": ways[0]}
        return
    able = [isinstance(each, dict) and not each.get("precision") and _keeps_first(each) for each in data["policies"]]
    if not any(able):
        raise UsageError(
            f"--redistribute {shares[0]}: no policy keeps the first token at full precision; give --policy S+W with a "
            "sink, or dense, without --kv"
        )
    data["policies"] = [
        each
        for policy, is_able in zip(data["policies"], able, strict=True)
        for each in [policy, *({**policy, "redistribute": way} for way in ways if is_able)]
    ]


def _keeps_first(policy: dict[str, Any]) -> bool:
    return policy.get("kind") in ("dense", "layers") or (
        policy.get("kind") == "sink_window" and policy.get("sinks", 4) != 0
    )


def _heads(text: str) -> str | list[list[int]]:
    if text in ("all", "calibrate"):
        return text
    pairs = [part.split(".") for part in text.split(",")]
    if not all(len(pair) == 2 and all(part.isdecimal() for part in pair) for pair in pairs):
        raise UsageError(f"--redistribute-heads {text}: {HEADS}")
    return [[int(layer), int(head)] for layer, head in pairs]
