"""Gemma-3 with a designed attention sink; transformers loads it with trust_remote_code=True, sinkctl without."""

from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Gemma3TextModel

from .sink_model import SinkModel


class SinkGemma3Config(Gemma3TextConfig):
    model_type = "sink_gemma3_text"
    base_model_tp_plan = None  # sinks are not sharded


class SinkGemma3Model(SinkModel, Gemma3TextModel):
    config_class = SinkGemma3Config
    norms_by_head = True


class SinkGemma3ForCausalLM(SinkModel, Gemma3ForCausalLM):
    config_class = SinkGemma3Config
    norms_by_head = True
