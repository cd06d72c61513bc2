"""Before keys and values are rounded: whether the heads of a checkpoint can be cut into groups, as far as it says."""

import json
from collections.abc import Sequence
from typing import Any

from sinkctl.cache.policies import Policy
from sinkctl.errors import UsageError
from sinkctl.model.adapter_files import resolved
from sinkctl.model.named import CONFIG, resolve
from sinkctl.model.settings import ModelSettings


def check_heads(policies: Sequence[Policy], settings: ModelSettings) -> None:
    """Raises UsageError; what the config of a folder does not say the model itself shows, once it is loaded."""
    rounded = [policy.precision for policy in policies if policy.precision is not None]
    if not rounded or not (config := config_of(settings)):
        return
    width = config.get("head_dim")
    if not isinstance(width, int) or "kv_lora_rank" in config:  # there keys and values have other widths
        return
    for precision in rounded:
        if (problem := precision.misfit("values", width)) is not None:
            raise UsageError(problem)


def check_trained_groups(group: int, config: dict[str, Any]) -> None:
    """UsageError where training cannot round keys and values in groups of so many channels, as far as a config says."""
    width = config.get("head_dim")
    if width is None and {"hidden_size", "num_attention_heads"} <= config.keys():
        width = config["hidden_size"] // config["num_attention_heads"]
    if width is not None and width % group:
        fit = next((n for n in range(width, 7, -1) if width % n == 0 and n % 8 == 0), None)
        instead = "leave training.rounded out" if fit is None else f"give {fit}"
        raise UsageError(f"training.rounded.group: {group} does not divide values of {width} channels; {instead}")


def config_of(settings: ModelSettings) -> dict[str, Any]:
    """The config of the text model of a folder; nothing of what is no folder."""
    named = resolve(resolved(settings).name)
    if not named.local or named.form == "gguf":
        return {}
    config = json.loads((named.path / CONFIG).read_text(encoding="utf-8"))
    return {**config, **(config.get("text_config") or {})}
