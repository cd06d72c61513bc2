"""Gemma-2 with a designed attention sink; transformers loads it with trust_remote_code=True, sinkctl without."""

from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma2Model

from .sink_model import SinkModel


class SinkGemma2Config(Gemma2Config):
    model_type = "sink_gemma2"
    base_model_tp_plan = None  # sinks are not sharded


class SinkGemma2Model(SinkModel, Gemma2Model):
    config_class = SinkGemma2Config


class SinkGemma2ForCausalLM(SinkModel, Gemma2ForCausalLM):
    config_class = SinkGemma2Config
