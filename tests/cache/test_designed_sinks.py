"""Designed sinks in the cache: streaming equals token by token, and the stock model under the same mask."""

import numpy as np
import pytest
import torch
from designed import ATTENDING, GATES, SCORE_BIAS, SCRATCH, designed
from families import YARN, in_float64
from reference import token_by_token_nll
from test_blocks import stream, text, wrap
from test_ring import losses, ring_of
from torch.nn.functional import cross_entropy

from sinkctl.cache.policies import SinkWindow
from sinkctl.cache.streaming import streaming
from sinkctl.errors import ModelError
from sinkctl.tasks.generate.settle import can_capture
from sinkctl.tasks.stream.scorers import BlockScorer

# Softcap and sliding layers; rotary in part, and queries, keys and values of one projection; normed queries.
OTHERS = ("gemma2", "gpt_neox", "qwen3")
EVERYWHERE = ("sink_logit_bias", "key_bias", "kv_bias_bias", "sigmoid_mixed", "softpick", "clipped_softmax_mixed")
PAIRS = [("llama", kind) for kind in ATTENDING] + [(family, kind) for family in OTHERS for kind in EVERYWHERE]
PAIRS += [("gemma3", "key_bias"), ("gemma3", "kv_bias_bias")]  # normed as [B, H, T, D]; two tables of frequencies
WINDOW = 7  # within the families' own


def masked_losses(model, ids_T: torch.Tensor, window: int = WINDOW) -> np.ndarray:
    """By the stock class, all tokens at once, each seeing itself and `window` tokens before it."""
    T = len(ids_T) - 1
    distance_TT = torch.arange(T)[:, None] - torch.arange(T)
    hidden_TT = (distance_TT < 0) | (distance_TT > window)
    mask = torch.zeros(1, 1, T, T, dtype=model.dtype).masked_fill(hidden_TT, torch.finfo(model.dtype).min)
    with torch.no_grad():
        logits_TV = model(input_ids=ids_T[None, :-1], attention_mask=mask, use_cache=False).logits[0]
    return cross_entropy(logits_TV, ids_T[1:], reduction="none").numpy()


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_blocks_and_steps_equal_token_by_token(family, kind):
    loaded, ids = wrap(designed(family, ATTENDING[kind], torch.float64)), text(30)
    for sinks, window, chunks in ((0, 7, [30]), (2, 5, [13, 13, 4]), (2, 3, [1] * 30)):
        policy = SinkWindow(sinks=sinks, window=window)
        facts = loaded.layers(policy.reach)
        expected = token_by_token_nll(loaded.model, facts, [policy.keep(f.window) for f in facts], ids)
        np.testing.assert_allclose(stream(loaded, policy, ids, chunks[0]), expected, rtol=0, atol=1e-10)
        found = losses(loaded, ring_of(loaded, policy), ids[None], [9, *[1] * 12, 9])[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("family", "kind"), [*PAIRS, *[(f, g) for f in ("llama", *OTHERS) for g in GATES]])
def test_a_plain_window_equals_the_stock_model_under_its_mask(family, kind, monkeypatch):
    in_float64(monkeypatch)
    loaded, ids = wrap(designed(family, (ATTENDING | GATES)[kind], torch.float64)), text(40)
    found = stream(loaded, SinkWindow(sinks=0, window=WINDOW), ids, 11)
    np.testing.assert_allclose(found, masked_losses(loaded.model, ids), rtol=0, atol=1e-10)
    # Stock `sdpa` has no softcap; until 5.2x Gemma-2 took it all the same, and left the softcap out.
    if loaded.model._supports_sdpa and getattr(loaded.model.config, "attn_logit_softcapping", None) is None:
        loaded.model.set_attn_implementation("sdpa")
        np.testing.assert_allclose(found, masked_losses(loaded.model, ids), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["key_bias", "kv_bias_bias"])
def test_a_rotary_embedding_that_scales_queries_leaves_the_sinks_score_alone(kind, monkeypatch):
    in_float64(monkeypatch)
    loaded, ids = wrap(designed("llama", ATTENDING[kind], torch.float64, rope_parameters=YARN)), text(40)
    found = stream(loaded, SinkWindow(sinks=0, window=WINDOW), ids, 11)
    np.testing.assert_allclose(found, masked_losses(loaded.model, ids), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["sink_logit_bias", "kv_bias_bias", "softpick", "output_headwise"])
def test_generation_within_the_window_is_the_stock_models_with_padded_rows_too(kind):
    model, ids = designed("llama", (ATTENDING | GATES)[kind], torch.float64), text(11)
    rows, mask = torch.stack([ids, ids.roll(3)]), torch.ones(2, 12, dtype=torch.int64)
    mask[1, :4] = 0
    options = dict(attention_mask=mask, max_new_tokens=9, do_sample=False, eos_token_id=-1, pad_token_id=0)
    model.set_attn_implementation("sdpa")  # eager has no float64 for a padded query, which sees nothing
    expected = model.generate(rows, **options)
    with streaming(model, sinks=2, window=40) as cache:
        found = model.generate(rows, past_key_values=cache, **options)
    assert found.tolist() == expected.tolist()


def test_the_model_attends_as_before_afterwards():
    model, ids = designed("llama", ATTENDING["kv_bias_bias"]), text(20)
    with torch.no_grad():
        before = model(ids[None]).logits
        stream(wrap(model), SinkWindow(sinks=2, window=7), ids, 9)
        assert torch.equal(model(ids[None]).logits, before)


def test_a_bias_on_the_first_token_is_refused_before_any_work():
    with pytest.raises(ModelError, match="sink_llama: score_bias acts on the first token"):
        BlockScorer(wrap(designed("llama", SCORE_BIAS)), SinkWindow(sinks=2, window=7))


def test_what_is_no_plain_attention_is_said_and_not_captured(monkeypatch):
    policy, said = SinkWindow(sinks=2, window=7), {}
    for kind in ("sink_logit", "kv_bias", "softpick"):
        loaded = wrap(designed("llama", ATTENDING[kind]))
        scorer = BlockScorer(loaded, policy)
        assert scorer.layers[0].endswith(f"designed sink: {ATTENDING[kind]['kind']}")
        said[kind] = scorer.choices["stream_attention"]
        monkeypatch.setattr(type(loaded), "device", torch.device("cuda"))
        captured, reason = can_capture(loaded, policy)
        monkeypatch.undo()
        assert (captured, kind in reason) == (kind == "sink_logit", kind != "sink_logit")
    assert said["softpick"] == "weighed: plain torch: softpick is no softmax"
    assert said["kv_bias"] == said["sink_logit"] == "tiled_cpu_flash: torch's CPU flash operator, in tiles of queries"


@pytest.mark.parametrize("kind", ["kv_bias_bias", "output_headwise", "value_elementwise", "input_headwise"])
def test_half_precision_keeps_the_sink_in_float32(kind, tmp_path):
    model, ids = designed("llama", (ATTENDING | GATES)[kind]), text(30)
    model.save_pretrained(tmp_path)
    half = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    sinks = [parameter.dtype for name, parameter in half.named_parameters() if ".sink." in name]
    assert set(sinks) == {torch.float32}
    found, expected = (stream(wrap(m), SinkWindow(sinks=2, window=WINDOW), ids, 11) for m in (half, model))
    assert abs(found - expected).mean() < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_layers_know_the_gates_of_two_models_apart():
    policy, ids = SinkWindow(sinks=2, window=WINDOW), text(20)
    for kind in ("value_headwise", "output_headwise", "input_headwise"):
        loaded = wrap(designed("llama", GATES[kind]).cuda())
        plain, compiled = (BlockScorer(loaded, policy, size).step(ids[:20], ids[1:21]) for size in (None, 20))
        np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", SCRATCH)
def test_what_serves_training_from_scratch_streams_as_the_stock_model_does_or_is_refused(kind, monkeypatch):
    in_float64(monkeypatch)
    loaded, ids = wrap(designed("llama", SCRATCH[kind], torch.float64)), text(40)
    if kind.startswith(("kernel_elu", "kernel_mlp", "positions")):
        with pytest.raises(ModelError, match=r"no rotation explains|positions are learned embeddings"):
            loaded.layers(WINDOW)
        return
    found = stream(loaded, SinkWindow(sinks=0, window=WINDOW), ids, 11)
    np.testing.assert_allclose(found, masked_losses(loaded.model, ids), rtol=0, atol=1e-10)
