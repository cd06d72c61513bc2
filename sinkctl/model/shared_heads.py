"""Whether a checkpoint's heads can be shared out among processes, as far as its config tells. Imports no torch."""

from typing import Any

from sinkctl import launched
from sinkctl.errors import ModelError, UsageError

HOW = "torchrun --nproc_per_node N -m sinkctl …"


def check_launched(flag: str) -> None:
    """UsageError where this process is alone."""
    if launched.processes() == 1:
        raise UsageError(f"{flag}: one process has nobody to share the model with; start {HOW}")


def check_heads_shared(name: str, config: dict[str, Any]) -> None:
    """ModelError for what no plan shares out, and for heads that the processes cannot have equally many of."""
    flag, processes = "--parallel tensor", launched.processes()
    text = config.get("text_config") or config
    if config.get("quantization_config") is not None:
        raise ModelError(f"{flag}: {name} is quantized; its weights are not shared out, so leave the flag out")
    if config.get("auto_map") or config.get("sink"):
        raise ModelError(
            f"{flag}: {name} has attention in code of its own, which transformers has no plan for; leave the flag out"
        )
    heads = text.get("num_attention_heads")
    kv_heads = text.get("num_key_value_heads") or heads
    for count, what in ((heads, "attention heads"), (kv_heads, "key/value heads")):
        if isinstance(count, int) and count % processes:
            raise ModelError(f"{flag}: {name} has {count} {what}, which {processes} processes cannot share equally")
