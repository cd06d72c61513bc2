"""Streaming on every family against what none of the product's arithmetic takes part in.

The stock model run densely, under a band mask where there are no sinks; and StreamingLLM (Xiao et al. 2023, arXiv
2309.17453, §3.2) written out once more from the checkpoint's own weights, token by token, for the published families.
"""

import math
import sys

import numpy as np
import pytest
import torch
from families import STREAMED, tiny
from torch import Tensor
from torch.nn.functional import cross_entropy

from sinkctl.cache.policies import SinkWindow, SlidingWindow
from sinkctl.errors import ModelError
from sinkctl.model.load import LoadedModel
from sinkctl.model.probe import probe
from sinkctl.tasks.stream.scorers import BlockScorer

TOKENS, CHUNK = 40, 13
WINDOW = 6  # within every family's own window, so that one band is the mask of every layer
# Their recurrent layers compute in float32 whatever the model's dtype, and sum in an order that blocks change.
RECURRENT_IN_FLOAT32 = dict.fromkeys(("qwen3_next", "qwen3_5", "olmo_hybrid"), 1e-4)


def text(tokens: int = TOKENS) -> Tensor:
    return torch.randint(3, 64, (tokens + 1,), generator=torch.Generator().manual_seed(1))


def streamed(model, policy, ids_T: Tensor) -> np.ndarray:
    scorer = BlockScorer(LoadedModel(model, None, "tiny", "in memory"), policy)
    inputs, targets = ids_T[:-1].split(CHUNK), ids_T[1:].split(CHUNK)
    return np.concatenate([scorer.step(*part) for part in zip(inputs, targets, strict=True)])


def stock(model, ids_T: Tensor) -> Tensor:
    with torch.no_grad():
        return cross_entropy(model(input_ids=ids_T[None, :-1]).logits[0], ids_T[1:], reduction="none")


@pytest.mark.parametrize("family", STREAMED)
def test_without_sinks_streaming_is_the_stock_model_under_a_band_mask(family, monkeypatch):
    model, ids = tiny(*STREAMED[family]), text()
    distance_TT = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)
    band = torch.zeros(1, 1, TOKENS, TOKENS, dtype=model.dtype)
    band.masked_fill_((distance_TT < 0) | (distance_TT > WINDOW), torch.finfo(model.dtype).min)
    asked = []
    source = sys.modules[type(model).__module__]
    for name in ("create_causal_mask", "create_sliding_window_causal_mask"):
        if hasattr(source, name):
            monkeypatch.setattr(source, name, lambda *_, **__: asked.append(1) or band)
    expected = stock(model, ids)
    assert asked
    monkeypatch.undo()
    found = streamed(model, SlidingWindow(window=WINDOW), ids)
    np.testing.assert_allclose(found, expected, rtol=0, atol=RECURRENT_IN_FLOAT32.get(family, 2e-5))


@pytest.mark.parametrize("family", STREAMED)
def test_until_the_cache_is_full_sinks_change_nothing(family):
    model, ids = tiny(*STREAMED[family]), text()
    found = streamed(model, SinkWindow(sinks=3, window=TOKENS - 4), ids)  # the last token fills it
    np.testing.assert_allclose(found, stock(model, ids), rtol=0, atol=RECURRENT_IN_FLOAT32.get(family, 2e-5))


class Cache:
    """One layer's cache of un-rotated keys; positions are slots."""

    def __init__(self, sinks: int, window: int, turn=None, slopes=None):
        self.sinks, self.window, self.turn, self.slopes = sinks, window, turn, slopes
        self.keys, self.values = [], []

    def attend(self, q_HD: Tensor, k_GD: Tensor, v_GD: Tensor, scale: float) -> Tensor:
        self.keys.append(k_GD)
        self.values.append(v_GD)
        last = len(self.keys) - 1
        keys = self.keys
        if self.turn is not None:
            q_HD, keys = self.turn(q_HD, last), [self.turn(k_GD, slot) for slot, k_GD in enumerate(keys)]
        out = []
        for head, q_D in enumerate(q_HD):
            group = head * len(k_GD) // len(q_HD)
            score_S = torch.stack([q_D @ k_GD[group] * scale for k_GD in keys])
            if self.slopes is not None:
                score_S = score_S + torch.tensor([self.slopes[head] * (slot - last) for slot in range(last + 1)])
            out.append(score_S.softmax(0) @ torch.stack([v_GD[group] for v_GD in self.values]))
        if last + 1 > self.sinks + self.window:
            del self.keys[self.sinks], self.values[self.sinks]
        return torch.cat(out)


def rotary(dims: int, base: float = 10000.0):
    """Dimension i turns with i + dims/2, by position / base^(2i/dims); frequencies in float32, as checkpoints have."""
    frequency = 1 / base ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims)

    def turn(x_HD: Tensor, position: int) -> Tensor:
        angle = position * frequency.double()
        cos, sin = angle.cos().to(x_HD), angle.sin().to(x_HD)
        a, b, rest = x_HD[:, : dims // 2], x_HD[:, dims // 2 : dims], x_HD[:, dims:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=1)

    return turn


def press(heads: int) -> list[float]:
    """Slopes of ALiBi as published (Press et al. 2021, arXiv 2108.12409, and its code for other than powers of two)."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return slopes if power == heads else slopes + press(2 * power)[::2][: heads - power]


def llama(model, sinks, window):
    config, body = model.config, model.model
    caches = [Cache(sinks, window, rotary(8)) for _ in body.layers]

    def step(token: int) -> Tensor:
        x = body.embed_tokens.weight[token]
        for layer, cache in zip(body.layers, caches, strict=True):
            attention, h = layer.self_attn, layer.input_layernorm(x)
            q, k, v = (p(h).view(-1, 8) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
            assert len(q) == config.num_attention_heads
            x = x + attention.o_proj(cache.attend(q, k, v, 8**-0.5))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return model.lm_head(body.norm(x))

    return step


def gpt_neox(model, sinks, window):
    body, output = model.gpt_neox, model.get_output_embeddings()
    caches = [Cache(sinks, window, rotary(4)) for _ in body.layers]  # a quarter of 16

    def step(token: int) -> Tensor:
        x = body.embed_in.weight[token]
        for layer, cache in zip(body.layers, caches, strict=True):
            qkv = layer.attention.query_key_value(layer.input_layernorm(x)).view(4, 3, 16)
            attended = layer.attention.dense(cache.attend(qkv[:, 0], qkv[:, 1], qkv[:, 2], 16**-0.5))
            x = x + attended + layer.mlp(layer.post_attention_layernorm(x))
        return output(body.final_layer_norm(x))

    return step


def falcon(model, sinks, window):
    """Falcon-7B (one key/value head), -40B (groups of query heads, each followed by its key and value), -RW (ALiBi)."""
    config, body = model.config, model.transformer
    H = config.num_attention_heads
    groups = config.num_kv_heads if config.new_decoder_architecture else 1 if config.multi_query else H
    slopes = [float(torch.tensor(s).bfloat16()) / math.sqrt(8) for s in press(H)] if config.alibi else None
    caches = [Cache(sinks, window, None if config.alibi else rotary(8), slopes) for _ in body.h]

    def step(token: int) -> Tensor:
        x = body.word_embeddings.weight[token]
        for layer, cache in zip(body.h, caches, strict=True):
            new = config.new_decoder_architecture
            before = (layer.ln_attn(x), layer.ln_mlp(x)) if new else (layer.input_layernorm(x),) * 2
            qkv = layer.self_attention.query_key_value(before[0]).view(groups, -1, 8)
            q, k, v = qkv[:, :-2].reshape(H, 8), qkv[:, -2], qkv[:, -1]
            x = x + layer.self_attention.dense(cache.attend(q, k, v, 8**-0.5)) + layer.mlp(before[1])
        return model.lm_head(body.ln_f(x))

    return step


def mpt(model, sinks, window):
    """Slopes for other than a power of two: those of the next one, every second first, then the rest."""
    body, H = model.transformer, model.config.n_heads
    clip, scale = model.config.attn_config.clip_qkv or math.inf, model.config.attn_config.softmax_scale or 8**-0.5
    slopes = press(H) if math.log2(H).is_integer() else press(2 ** math.ceil(math.log2(H)))
    slopes = slopes if len(slopes) == H else (slopes[1::2] + slopes[::2])[:H]
    caches = [Cache(sinks, window, slopes=slopes) for _ in body.blocks]

    def step(token: int) -> Tensor:
        x = body.wte.weight[token]
        for block, cache in zip(body.blocks, caches, strict=True):
            q, k, v = block.attn.Wqkv(block.norm_1(x)).clamp(-clip, clip).view(3, H, 8)
            x = x + block.attn.out_proj(cache.attend(q, k, v, scale))
            x = block.ffn(block.norm_2(x), x)
        return model.lm_head(body.norm_f(x))

    return step


PUBLISHED = {
    "llama": llama,
    "gpt_neox": gpt_neox,
    "falcon": falcon,
    "falcon_new": falcon,
    "falcon_alibi": falcon,
    "mpt": mpt,
    "mpt_clipped": mpt,
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_streaming_is_the_published_rule_written_out_from_the_weights(family):
    model, ids, policy = tiny(*STREAMED[family]), text(90), SinkWindow(sinks=4, window=12)
    with torch.no_grad():
        step = PUBLISHED[family](model, policy.sinks, policy.window)
        logits = torch.stack([step(int(token)) for token in ids[:-1]])
    expected = cross_entropy(logits, ids[1:], reduction="none")
    # Falcon's slopes, divided by √8, are held in float32.
    exact = 1e-7 if family == "falcon_alibi" else 1e-10
    np.testing.assert_allclose(streamed(model, policy, ids), expected, rtol=0, atol=exact)
    np.testing.assert_allclose(streamed(model.float(), policy, ids), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", ["gptj", "codegen"])
def test_a_rotation_goes_on_beyond_the_end_of_the_stock_table(family):
    model_type, settings = STREAMED[family]
    ids, policy = text(), SinkWindow(sinks=2, window=30)
    short, long = (
        streamed(tiny(model_type, settings | {"max_position_embeddings": rows}), policy, ids) for rows in (16, 128)
    )
    assert (short == long).all()


def test_an_mpt_whose_bias_transformers_computes_otherwise_than_it_was_trained_is_refused():
    """MPT-7B-StoryWriter."""
    settings = dict(d_model=32, n_heads=4, n_layers=2, attn_config=dict(alibi_bias_max=16))
    with pytest.raises(ModelError, match=r"mpt: .*alibi_bias_max=16"):
        probe(tiny("mpt", settings), reach=40)


def test_layers_are_told_apart_in_words():
    for family, words in {"mpt": "ALiBi", "falcon_alibi": "ALiBi", "gptj": "rotary, 4 of 8 dimensions"}.items():
        scorer = BlockScorer(LoadedModel(tiny(*STREAMED[family]), None, "tiny", "in memory"), SinkWindow(window=20))
        assert words in scorer.layers[0]
