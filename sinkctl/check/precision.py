"""Before keys and values are rounded: whether the heads of a checkpoint can be cut into groups, as far as it says."""

import json
from collections.abc import Sequence
from typing import Any

from sinkctl.cache.policies import Policy
from sinkctl.errors import UsageError
from sinkctl.model.adapter_files import resolved
from sinkctl.model.gguf.header import read_header
from sinkctl.model.named import CONFIG, resolve
from sinkctl.model.settings import ModelSettings

OF_GGUF = {
    "num_hidden_layers": "block_count", "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv", "max_position_embeddings": "context_length",
}  # fmt: skip


def check_heads(policies: Sequence[Policy], settings: ModelSettings) -> None:
    """Raises UsageError; what the config of a folder does not say the model itself shows, once it is loaded."""
    rounded = [policy.precision for policy in policies if policy.precision is not None]
    if not rounded or (width := head_width(settings)) is None:
        return
    for precision in rounded:
        if (problem := precision.misfit("values", width)) is not None:
            raise UsageError(problem)


def check_compiled(policies: Sequence[Policy], compiled: bool | str) -> None:
    """UsageError where layers are to be compiled that a cache has to look into."""
    if compiled is True and any(policy.precision is not None and policy.precision.predicts for policy in policies):
        raise UsageError(
            "compile=true: predicted tokens are told by a layer's output, which compiled layers do not show; "
            "set compile to auto"
        )


def head_width(settings: ModelSettings) -> int | None:
    """Channels of keys and of values in a head, as far as the config of a folder says."""
    config = config_of(settings)
    width = config.get("head_dim")
    if not isinstance(width, int) or "kv_lora_rank" in config:  # there keys and values have other widths
        return None
    return width


def config_of(settings: ModelSettings) -> dict[str, Any]:
    """The config of the text model of a folder, or what a GGUF file says of its sizes; nothing of a Hub id."""
    named = resolve(resolved(settings).name)
    if not named.local:
        return {}
    if named.form == "gguf":
        header = read_header(named.path)
        return {name: header.fields.get(f"{header.architecture}.{field}") for name, field in OF_GGUF.items()}
    config = json.loads((named.path / CONFIG).read_text(encoding="utf-8"))
    return {**config, **(config.get("text_config") or {})}
