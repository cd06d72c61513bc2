"""Llama with a designed attention sink; transformers loads it with trust_remote_code=True, sinkctl without."""

from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from .sink_model import SinkModel


class SinkLlamaConfig(LlamaConfig):
    model_type = "sink_llama"
    base_model_tp_plan = None  # sinks are not sharded


class SinkLlamaModel(SinkModel, LlamaModel):
    config_class = SinkLlamaConfig


class SinkLlamaForCausalLM(SinkModel, LlamaForCausalLM):
    config_class = SinkLlamaConfig
