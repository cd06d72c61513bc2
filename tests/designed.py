"""Tiny random checkpoints with a designed sink that nothing can overlook."""

import torch
from families import SHAPE, STREAMED
from transformers import PreTrainedModel

from sinkctl.sinks.code import FAMILIES

# What attends in another way; name → `sink` of config.json.
ATTENDING = {
    "sink_logit": dict(kind="sink_logit", parameters=["logit"]),
    "sink_logit_bias": dict(kind="sink_logit", parameters=["logit", "bias", "lost_key", "lost_value"]),
    "key_bias": dict(kind="key_bias", parameters=["key"]),
    "kv_bias": dict(kind="kv_bias", parameters=["key", "value"]),
    "kv_bias_bias": dict(kind="kv_bias", parameters=["key", "value", "bias"]),
    "sigmoid": dict(kind="sigmoid", parameters=["offset"]),
    "sigmoid_mixed": dict(kind="sigmoid", parameters=["offset"], mix=0.6),
    "sigmoid_normalised": dict(kind="sigmoid", parameters=["offset"], normalise=True),
    "elu_mixed": dict(kind="elu", parameters=["offset"], mix=0.6),
    "softpick": dict(kind="softpick", parameters=["offset"]),
    "softpick_mixed": dict(kind="softpick", parameters=["offset"], mix=0.6),
    "clipped_softmax": dict(kind="clipped_softmax", parameters=["gamma"]),
    "clipped_softmax_mixed": dict(kind="clipped_softmax", parameters=["gamma"], mix=0.6),
}
# What serves training from scratch alone.
SCRATCH = {
    "elu_normalised": dict(kind="elu", parameters=["offset"], normalise=True),
    "normaliser": dict(kind="normaliser", parameters=[], alpha=0.5, power=2.0),
    "sigsoftmax": dict(kind="sigsoftmax", parameters=[]),
    **{
        f"kernel_{form}{'' if normalise else '_plain'}": dict(
            kind="kernel", form=form, normalise=normalise,
            parameters=["feature.0.weight", "feature.2.weight"] if form == "mlp" else [],
        )
        for form in ("elu", "identity", "mlp")
        for normalise in (True, False)
    },
    "fixed_kv_bias": dict(kind="fixed_kv_bias", parameters=["key", "value"], channels=3),
    "alibi": dict(kind="alibi", parameters=[]),
    "positions": dict(kind="positions", form="learned", length=64, parameters=["position"], layers=[0]),
}  # fmt: skip
SCORE_BIAS = dict(kind="score_bias", parameters=["first"])
GATES = {
    f"{place}_{form}": dict(kind="gate", place=place, form=form, parameters=["gate.weight", "gate.bias"])
    for place in ("output", "value", "input")
    for form in ("headwise", "elementwise")
}
GATES["output_headwise_constant"] = {
    **GATES["output_headwise"],
    "parameters": [*GATES["output_headwise"]["parameters"], "bias"],
}
# Mean and spread of the parameters: logits and scores near a log-sum-exp, a gamma that clips many weights but not all.
DRAWN = dict(
    logit=(2, 1), key=(0, 1), value=(0, 1), offset=(-1, 0.5), first=(2, 1), bias=(0, 1), lost_key=(0, 1),
    lost_value=(0, 1),
)  # fmt: skip


def designed(family: str, sink: dict, dtype: torch.dtype = torch.float32, seed: int = 0, **config) -> PreTrainedModel:
    """A random checkpoint of a family of `sinkctl.sinks.code`, in eval mode; `config` goes over the family's own.

    In half precision the sink stays in float32, as transformers loads it.
    """
    classes = FAMILIES[STREAMED[family][0]].classes()
    config_class, model_class = classes["AutoConfig"], classes["AutoModelForCausalLM"]
    settings = {**SHAPE, **STREAMED[family][1], **config}
    settings = {name: value for name, value in settings.items() if value is not None}
    torch.manual_seed(seed)
    model = model_class._from_config(
        config_class(**settings, sink=sink, initializer_range=0.3), dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _, _, own = name.partition(".sink.")
            if own == "gamma":
                parameter.uniform_(-0.1, -0.02)
            elif own in DRAWN:
                parameter.normal_(*DRAWN[own])
            elif own:  # a gate's, a kernel's, a position's
                parameter.normal_()
    model.to(dtype)
    for module in model.modules():
        if dtype in (torch.float16, torch.bfloat16) and hasattr(module, "sink"):
            module.sink.float()
    return model.eval()
