"""GPT-NeoX with a designed attention sink; transformers loads it with trust_remote_code=True, sinkctl without."""

from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from .sink_model import SinkModel


class SinkGPTNeoXConfig(GPTNeoXConfig):
    model_type = "sink_gpt_neox"


class SinkGPTNeoXForCausalLM(SinkModel, GPTNeoXForCausalLM):
    config_class = SinkGPTNeoXConfig
