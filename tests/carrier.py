"""Checkpoints with planted attention logits: what every attention metric must read is known in closed form.

All weights are 0 but those of queries and keys, so that every layer sees the embeddings. Channel 1 is always +1,
channel 0 is +1 for the sink token and −1 for the others (an RMS of exactly 1, which the norm leaves alone). Head h has
q = s_h·x₁ and k = √D·(x₀+x₁)/2 in its slowest rotary pair, which a huge base keeps from turning: the logit is s_h on
sink tokens and 0 on the others.
"""

import math

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from sinkctl.model.load import LoadedModel

WORDS, WIDTH, HEAD = 64, 32, 8
SINK = 1  # id of the BOS token, the sink


def carrier(logits: list[list[float]], model_type: str = "llama", kv_heads: int = 1, **settings) -> LoadedModel:
    """One row of logits a layer, one logit a head."""
    heads = len(logits[0])
    config = AutoConfig.for_model(
        model_type, vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=len(logits),
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=HEAD, rms_norm_eps=1e-12,
        max_position_embeddings=1 << 20, bos_token_id=SINK, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e30}, **settings,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        draw = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (WORDS, WIDTH), generator=draw) * 2.0 - 1
        signs[:, 0], signs[:, 1] = -1.0, 1.0
        signs[SINK, 0] = 1.0
        model.get_input_embeddings().weight.copy_(signs)
        pair = HEAD // 2 - 1  # the slowest
        for layer, row in zip(model.model.layers, logits, strict=True):
            for head, logit in enumerate(row):
                layer.self_attn.q_proj.weight[head * HEAD + pair, 1] = logit
            for group in range(kv_heads):
                layer.self_attn.k_proj.weight[group * HEAD + pair, :2] = math.sqrt(HEAD) / 2
    return LoadedModel(model, tokenizer(), "carrier", "in memory")


def tokenizer() -> PreTrainedTokenizerFast:
    """One word a token: <s>, w2, w3, …; BOS is put in front by nobody."""
    words = {"<unk>": 0, "<s>": SINK} | {f"w{number}": number for number in range(2, WORDS)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")


def planted(s: float, T: int, sinks: int = 1, window: int | None = None) -> float:
    """α of the first key: logit s on the first `sinks` keys, 0 on the others; queries see `window` past keys."""
    total = 0.0
    for t in range(1, T + 1):
        first = 1 if window is None else max(1, t - window)
        if first == 1:
            seen = min(t, sinks)
            total += math.exp(s) / (seen * math.exp(s) + t - seen)
    return total / T


def zero_weights(model: PreTrainedModel) -> PreTrainedModel:
    """All scores become equal, wherever biases are absent or zero."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    return model
