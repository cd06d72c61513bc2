"""Qwen3 with a designed attention sink; transformers loads it with trust_remote_code=True, sinkctl without."""

from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from .sink_model import SinkModel


class SinkQwen3Config(Qwen3Config):
    model_type = "sink_qwen3"
    base_model_tp_plan = None  # sinks are not sharded


class SinkQwen3Model(SinkModel, Qwen3Model):
    config_class = SinkQwen3Config


class SinkQwen3ForCausalLM(SinkModel, Qwen3ForCausalLM):
    config_class = SinkQwen3Config
