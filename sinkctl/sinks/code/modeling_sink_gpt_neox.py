"""GPT-NeoX with a designed attention sink; transformers loads it with trust_remote_code=True, sinkctl without."""

from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, GPTNeoXModel

from .sink_model import SinkModel


class SinkGPTNeoXConfig(GPTNeoXConfig):
    model_type = "sink_gpt_neox"
    base_model_tp_plan = None  # sinks are not sharded


class SinkGPTNeoXModel(SinkModel, GPTNeoXModel):
    config_class = SinkGPTNeoXConfig


class SinkGPTNeoXForCausalLM(SinkModel, GPTNeoXForCausalLM):
    config_class = SinkGPTNeoXConfig
