"""Mistral with a designed attention sink; transformers loads it with trust_remote_code=True, sinkctl without."""

from transformers import MistralConfig, MistralForCausalLM

from .sink_model import SinkModel


class SinkMistralConfig(MistralConfig):
    model_type = "sink_mistral"


class SinkMistralForCausalLM(SinkModel, MistralForCausalLM):
    config_class = SinkMistralConfig
