"""Which mechanisms no checkpoint of a model type can hold, by what the disk says of it; imports no torch."""

from sinkctl.sinks.base import Sink
from sinkctl.sinks.code import FAMILIES

LOGITS = ("sink_logit", "softmax1")
SINKING = ("gpt_oss", "granite_swa")  # have sink logits, which loading says more of
LOGIT_SOURCES = ("llama", "mistral", "qwen2", "granite")  # which granite_swa can hold them for
# Whose `attention_bias` reaches the output projection, with nothing between it and the heads.
OPTIONAL_BIAS = ("llama", "granite", "qwen3", "gemma2", "gpt_neox")


def unstorable_for(sink: Sink, model_type: str, output_bias: bool | None = None) -> str | None:
    """Why `storage.form_for` will find no form; None where it may find one, which the whole config tells.

    `output_bias`: whether the weights have biases behind the heads; None where that is not known.
    """
    if model_type in FAMILIES or sink.kind in ("none", "sink_token"):
        return None
    code = f"sinkctl has code for {', '.join(FAMILIES)} only"
    if sink.kind == "value_bias":
        has = output_bias is not False or model_type in OPTIONAL_BIAS
        return None if has else f"its output projections have no bias, and {code}"
    if sink.kind in LOGITS and model_type in (*LOGIT_SOURCES, *SINKING):
        return None
    return f"no class of transformers has it there, and {code}"


def never_stock(sink: Sink) -> bool:
    """Whether no class of transformers has the mechanism, whatever the model."""
    gated = sink.kind == "gate" and sink.place == "output" and sink.start == "exact"  # of Qwen3
    return not gated and sink.kind not in (*LOGITS, "none", "sink_token", "value_bias")
