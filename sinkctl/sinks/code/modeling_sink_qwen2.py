"""Qwen2 with a designed attention sink; transformers loads it with trust_remote_code=True, sinkctl without."""

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from .sink_model import SinkModel


class SinkQwen2Config(Qwen2Config):
    model_type = "sink_qwen2"
    base_model_tp_plan = None  # sinks are not sharded


class SinkQwen2Model(SinkModel, Qwen2Model):
    config_class = SinkQwen2Config


class SinkQwen2ForCausalLM(SinkModel, Qwen2ForCausalLM):
    config_class = SinkQwen2Config
