"""Mistral with a designed attention sink; transformers loads it with trust_remote_code=True, sinkctl without."""

from transformers import MistralConfig, MistralForCausalLM, MistralModel

from .sink_model import SinkModel


class SinkMistralConfig(MistralConfig):
    model_type = "sink_mistral"
    base_model_tp_plan = None  # sinks are not sharded


class SinkMistralModel(SinkModel, MistralModel):
    config_class = SinkMistralConfig


class SinkMistralForCausalLM(SinkModel, MistralForCausalLM):
    config_class = SinkMistralConfig
