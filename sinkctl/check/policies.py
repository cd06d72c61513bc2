"""Policies beside what a checkpoint's config says of it, before anything is loaded."""

from collections.abc import Sequence

from sinkctl.cache.policies import Policy
from sinkctl.check.precision import config_of
from sinkctl.errors import ModelError, UsageError
from sinkctl.model.settings import ModelSettings

CONTEXT = ("max_position_embeddings", "max_seq_len", "seq_length")


def check_policies(policies: Sequence[Policy], settings: ModelSettings) -> None:
    """UsageError for layers and heads that are not there, ModelError for windows that do not fit the context.

    What the config does not say the model itself shows, once it is loaded.
    """
    asked = [policy for policy in policies if policy.kind in ("layers", "heads", "recompute")]
    config = config_of(settings) if asked else {}
    layers, heads = config.get("num_hidden_layers"), config.get("num_key_value_heads")
    context = next((config[name] for name in CONTEXT if isinstance(config.get(name), int)), None)
    for policy in asked:
        if policy.kind == "recompute":
            if context is not None and policy.window != "auto" and policy.reach + 1 > context:
                raise ModelError(
                    f"--policy {policy.label}: that and the query do not fit the context of {context}; give at most "
                    f"recompute:{policy.sinks}+{context - policy.sinks - 1}"
                )
            continue
        for place in policy.whole:
            layer, head = place if policy.kind == "heads" else (place, 0)
            if isinstance(layers, int) and layer >= layers:
                raise UsageError(f"--policy {policy.kind}: no layer {layer}; the model's are 0 to {layers - 1}")
            if isinstance(heads, int) and head >= heads:
                raise UsageError(
                    f"--policy {policy.kind}: layer {layer} has no key/value head {head}; a layer has {heads}"
                )
