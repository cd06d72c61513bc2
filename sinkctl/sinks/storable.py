"""Which mechanisms no checkpoint of a model type can hold, by the type alone; imports no torch."""

from sinkctl.sinks.base import Sink
from sinkctl.sinks.code import FAMILIES

LOGITS = ("sink_logit", "softmax1")
SINKING = ("gpt_oss", "granite_swa")  # have sink logits, which loading says more of
LOGIT_SOURCES = ("llama", "mistral", "qwen2", "granite")  # which granite_swa can hold them for


def unstorable_for(sink: Sink, model_type: str) -> str | None:
    """Why `storage.form_for` will find no form; None where it may find one, which the whole config tells."""
    in_stock = sink.kind in ("none", "sink_token", "value_bias")
    in_stock |= sink.kind in LOGITS and model_type in (*LOGIT_SOURCES, *SINKING)
    in_stock |= sink.kind == "gate" and sink.place == "output" and sink.start == "exact"
    if in_stock or model_type in FAMILIES:
        return None
    return f"no class of transformers has it there, and sinkctl has code for {', '.join(FAMILIES)} only"
