"""The sink rate against a closed form, and against what is known of real checkpoints."""

import math

import pytest
import torch
from families import STREAMED, tiny

from sinkctl.metrics.sink_rate import sink_rate


def test_flat_attention_gives_the_harmonic_mean():
    """With all scores equal, query t gives the first token 1/(t+1)."""
    model = tiny("llama", {}, torch.float32)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    ids, alpha = torch.randint(3, 64, (2, 16)), sum(1 / t for t in range(1, 17)) / 16
    assert sink_rate(model, ids, epsilon=alpha - 1e-4) == 1
    assert sink_rate(model, ids, epsilon=alpha + 1e-4) == 0


def test_with_alibi_flat_attention_falls_with_distance():
    """Query t gives the first token the last term of a geometric series, with a ratio of its own in each head."""
    model = tiny(*STREAMED["mpt"], torch.float32)
    for block in model.transformer.blocks:
        torch.nn.init.zeros_(block.attn.Wqkv.weight)
    means = []
    for slope in (2**-2, 2**-4, 2**-6, 2**-8):
        weight = [math.exp(-slope * distance) for distance in range(16)]
        means.append(sum(weight[t] / sum(weight[: t + 1]) for t in range(16)) / 16)
    ids = torch.randint(3, 64, (2, 16))
    for epsilon in (0.1, 0.15, 0.2, 0.205, 0.21):
        assert sink_rate(model, ids, epsilon) == sum(mean > epsilon for mean in means) / 4


def test_the_demo_model_sinks_on_bos_and_not_without_it(demo, book):
    own = torch.tensor(demo.tokenizer(book[:40_000], add_special_tokens=False).input_ids)
    with_bos = torch.cat([torch.full((100, 1), demo.bos_id), own[: 100 * 63].view(100, 63)], dim=1)
    assert sink_rate(demo.model, with_bos) == pytest.approx(0.76, abs=0.02)
    assert sink_rate(demo.model, own[: 100 * 64].view(100, 64)) < 0.01
