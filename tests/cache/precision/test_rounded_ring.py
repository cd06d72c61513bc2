"""Rounded keys and values: blocks, single tokens, rows and `generate` see what the rule says, token by token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from designed import ATTENDING, designed
from families import HYBRID, STREAMED, in_float64, tiny
from fed import losses, rows_of_streaming, wrap
from reference import token_by_token_nll
from rounded import BLOCKS, TOKENS, RoundedTokenByToken, scored, text

from sinkctl.cache.policies import Dense, SinkWindow
from sinkctl.cache.precision import forms
from sinkctl.cache.precision.settings import Precision
from sinkctl.cache.precision.steps import Turns
from sinkctl.cache.select import ring
from sinkctl.cache.streaming import streaming
from sinkctl.errors import ModelError, UsageError
from sinkctl.kernels import rounded_decode
from sinkctl.kernels.rounded_decode import IMPLEMENTATIONS
from sinkctl.model.load import LoadedModel
from sinkctl.model.recurrent import recurrent_cache
from sinkctl.tasks.stream.scorers import BlockScorer, scorer_for

# Keys by channel: a group that ends within a block, more kept than sinks, groups that hold sinks and window; by token.
CASES = (
    SinkWindow(sinks=3, window=20, precision=Precision(bits=2, group=8, recent=4, keep="first:2")),
    SinkWindow(sinks=10, window=11, precision=Precision(bits=3, group=8, recent=3, keep="first:12")),
    SinkWindow(sinks=0, window=8, precision=Precision(bits=4, group=8, recent=0)),
    SinkWindow(sinks=3, window=9, precision=Precision(bits=2, group=8, recent=2, keys="token", keep="first:1")),
    Dense(precision=Precision(bits=2, group=8, recent=5, keep="first:1")),
)
IN_HALF = SinkWindow(sinks=2, window=16, precision=Precision(bits=2, group=8, recent=4, keep="first:1"))


def expected(loaded: LoadedModel, policy, ids_T: torch.Tensor) -> torch.Tensor:
    facts = loaded.layers(128)
    keeps = [policy.keep(f.window) for f in facts]
    rule = RoundedTokenByToken(facts, keeps, policy.precision)
    return token_by_token_nll(loaded.model, facts, keeps, ids_T, rule)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss", "falcon_alibi"])
def test_blocks_and_single_tokens_equal_token_by_token(family):
    """Grouped queries; sliding layers, which stay in full where they keep too few; learned sinks; ALiBi."""
    loaded, ids = wrap(tiny(*STREAMED[family])), text()
    for policy in CASES if family == "llama" else (CASES[0], CASES[3]):
        truth = expected(loaded, policy, ids)
        for blocks in BLOCKS if family == "llama" else BLOCKS[2:]:
            held = ring(loaded.layers(128), policy, 1, None if isinstance(policy, Dense) else TOKENS)
            np.testing.assert_allclose(losses(loaded, held, ids[None], blocks)[0], truth, rtol=0, atol=1e-10)
        np.testing.assert_allclose(scored(loaded, policy, ids, 13), truth, rtol=0, atol=1e-10)
        in_full = scored(loaded, policy.model_copy(update={"precision": None}), ids, TOKENS)
        assert abs(in_full - truth.numpy()).max() > 1e-3


def test_steps_by_the_specification_of_their_kernel_equal_token_by_token(monkeypatch):
    """Prompts in blocks, then single tokens, some of which are done over first, as captured steps are; and blocks."""
    loaded, ids = wrap(tiny(*STREAMED["llama"])), text()
    monkeypatch.setattr(rounded_decode, "select", lambda *_: (IMPLEMENTATIONS["reference"], "a test"))
    for policy in (case for case in CASES if case.precision.keys == "channel"):
        truth = expected(loaded, policy, ids)
        held = ring(loaded.layers(128), policy, 1, None if isinstance(policy, Dense) else TOKENS)
        assert held.implementations == {"reference": "a test"}
        for blocks in BLOCKS:
            np.testing.assert_allclose(losses(loaded, held, ids[None], blocks)[0], truth, rtol=0, atol=1e-10)
            held.restart()
        for token in range(TOKENS):
            for rehearses in (True, True, False):
                held.rehearse(rehearses)
                found = losses(loaded, held, ids[None, token : token + 2], [1])[0]
                np.testing.assert_allclose(found, truth[token : token + 1], rtol=0, atol=1e-10)
                held.rewind([token + 1 - rehearses])


@pytest.mark.parametrize("policy", [CASES[0], CASES[4]])
def test_how_many_queries_a_tile_holds_changes_nothing(policy, monkeypatch):
    """Off the CPU they are more, but for wide batches and long caches, whose scores would not fit."""
    loaded = wrap(tiny(*STREAMED["llama"]))
    whole = scored(loaded, policy, text(), TOKENS)
    monkeypatch.setattr(forms, "TILE", 7)
    assert np.abs(scored(loaded, policy, text(), TOKENS) - whole).max() < 1e-12
    monkeypatch.undo()
    few, many = (torch.empty(rows, 32, 1, 64, device="meta") for rows in (1, 8))
    assert (forms._tile(few, 4096), forms._tile(few, 16384), forms._tile(many, 16384)) == (512, 256, 128)
    assert forms._tile(torch.empty(1, 1, 1, 64), 64) == 128


@pytest.mark.parametrize("family", ["jamba"])
def test_softmax_layers_of_hybrids_are_rounded_and_their_recurrent_states_are_not(family, monkeypatch):
    in_float64(monkeypatch)
    loaded, ids = wrap(tiny(*HYBRID[family])), text()
    truth = expected(loaded, CASES[0], ids)
    held = ring(loaded.layers(128), CASES[0], 1)
    found = losses(loaded, held, ids[None], BLOCKS[2], recurrent_cache(loaded.model))[0]
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-10)
    np.testing.assert_allclose(scored(loaded, CASES[0], ids, 11, resumed=True), truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["kv_bias_bias", "softpick"])
def test_designed_sinks_stay_in_full(kind):
    loaded, ids = wrap(designed("llama", ATTENDING[kind], torch.float64)), text()
    found = scored(loaded, CASES[0], ids, 17)
    np.testing.assert_allclose(found, expected(loaded, CASES[0], ids), rtol=0, atol=1e-10)


@pytest.mark.parametrize("policy", [CASES[0], CASES[4]], ids=["4+20", "dense"])
def test_a_resumed_stream_goes_on_to_the_same_bits(policy):
    loaded, ids = wrap(tiny(*STREAMED["gemma3"], dtype=torch.float32)), text()
    np.testing.assert_array_equal(scored(loaded, policy, ids, 9, resumed=True), scored(loaded, policy, ids, 9))


def test_rows_of_generate_padded_in_turns_are_each_scored_as_alone():
    """`streaming()` takes prompts of several lengths and then tokens; a stream in blocks of each row's text agrees."""
    model, policy = tiny(*STREAMED["llama"]), IN_HALF
    ids, starts = torch.stack([text(1), text(2)]), (20, 6)
    for row, found in enumerate(rows_of_streaming(model, policy, ids, starts)):
        alone = scored(wrap(model), policy, ids[row], 13)[starts[row] - 1 : starts[row] + 30]
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-10)


def test_the_score_of_a_beam_is_that_of_its_text_in_blocks():
    model, prompt = tiny(*STREAMED["llama"]), text()[None, :30]
    options = dict(num_beams=3, do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=TOKENS - 29)
    options |= dict(return_dict_in_generate=True, output_scores=True)
    with streaming(model, 2, 16, IN_HALF.precision.model_dump()) as cache:
        found = model.generate(prompt, attention_mask=torch.ones_like(prompt), past_key_values=cache, **options)
    given = scored(wrap(model), IN_HALF, found.sequences[0], 13)[29:]
    np.testing.assert_allclose(-found.sequences_scores, given.mean(), rtol=0, atol=1e-6)  # kept in float32


@pytest.mark.parametrize(("bits", "ranges"), [(8, 2), (4, 2), (3, 2), (2, 2), ("fp8", 1)])
def test_memory_is_what_the_bits_say(bits, ranges):
    """2 layers of 2 key/value heads of 32; 4 sinks, 64 of window, of which 16 recent, 1 kept; float32."""
    loaded = wrap(tiny("llama", dict(hidden_size=128, num_attention_heads=4), dtype=torch.float32))
    of_a_code = 1 if bits == "fp8" else bits / 8
    policy = SinkWindow(sinks=4, window=64, precision=Precision(bits=bits, group=16, recent=16, keep="first:1"))
    keys = (64 - 16 + 16) * 32 * of_a_code + 4 * ranges * 32 * 4  # 3 groups of 16, and one that holds the sinks
    values = (64 - 16 + 4) * (32 * of_a_code + ranges * 2 * 4)
    recent, kept = (16 + 16 + 16 + 1) * 32 * 4, 2 * 32 * 4
    assert ring(loaded.layers(128), policy, 1).bytes_held() == 2 * 2 * (keys + values + recent + kept)


def test_unrotated_layers_of_two_widths_have_tables_of_their_own():
    facts, turns = wrap(tiny(*STREAMED["llama"])).layers(128)[0], Turns()
    for width in (facts.width, 2 * facts.width):
        angles = turns.of(None, replace(facts, width=width), 8, 20)
        assert angles.fine_cos_tn.shape == (8, width // 2)


def test_layers_say_what_is_rounded_and_what_stays_in_full():
    loaded = wrap(tiny(*STREAMED["gemma3"]))
    sliding, whole = BlockScorer(loaded, CASES[0]).layers
    assert "stays as trained, the last 8 tokens, in full: too few to be rounded" in sliding
    assert "keeps 3 sinks and the last 20, 2-bit KV, groups of 8, last 4 in full, first 2 kept" in whole


def test_what_a_model_cannot_do_is_one_line():
    odd = wrap(tiny("llama", dict(hidden_size=48)))  # heads of 12
    with pytest.raises(UsageError, match="--kv: groups of 8 channels do not divide values of 12"):
        BlockScorer(odd, CASES[0])
    with pytest.raises(ModelError, match=r"learned embeddings.*leave --kv out"):
        scorer_for(wrap(tiny("gpt2", dict(n_positions=128, n_embd=32, n_head=4, n_layer=2))), CASES[4], bos=False)
