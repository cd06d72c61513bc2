"""A model whose weights are written by hand so that it can answer: one attention layer that looks a key up.

Its words are keys with a value (`k3=v7`), questions (`k3?`), values, and `none`, which it says where nothing in its
cache has the key: BOS, which draws less attention than the right key and more than all wrong ones, says so.
"""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sinkctl.model.load import LoadedModel

KEYS = 31  # and as many values
# Where things stand in the residual stream, and in a head: `SLOW` are the frequencies that hardly turn.
KEY, VALUE, ASKED, BOS, END, SAID, SLOW = 0, 32, 64, 96, 97, 112, 32


def lookup() -> LoadedModel:
    """The model and its tokenizer, which splits at spaces."""
    pairs = [f"k{key}=v{value}" for key in range(KEYS) for value in range(KEYS)]
    single = [f"v{i}" for i in range(KEYS)] + [f"k{i}?" for i in range(KEYS)]
    words = ["<bos>", "<eos>", "none", *single, *pairs]
    ids = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="none"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=144, head_dim=128, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
        tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 1e15},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        _write(model, ids)
    return LoadedModel(model, tokenizer, "lookup", "in memory")


def _write(model: LlamaForCausalLM, ids: dict[str, int]) -> None:
    embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
    layer = model.model.layers[0].self_attn
    q, k, v, o = (getattr(layer, f"{name}_proj").weight for name in "qkvo")
    embedding[ids["<bos>"], BOS] = 1
    embedding[ids["none"], END] = 1
    head[ids["<eos>"], END] = 10
    for key in range(KEYS):
        embedding[ids[f"k{key}?"], ASKED + key] = 1
        for value in range(KEYS):
            embedding[ids[f"k{key}=v{value}"], [KEY + key, VALUE + value]] = 1
        q[[SLOW + key, SLOW + KEYS], ASKED + key] = 3
        k[SLOW + key, KEY + key] = 6
    k[SLOW + KEYS, BOS] = 2
    for said, (word, source) in enumerate([*((f"v{i}", VALUE + i) for i in range(KEYS)), ("none", BOS)]):
        v[said, source] = 1
        o[SAID + said, said] = 1
        head[ids[word], SAID + said] = 1
        embedding[ids[word], END] = 1
