"""Rotary frequencies that change with length: every token is turned as the stock class turns the text up to it."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from families import in_float64, tiny
from reference import token_by_token_nll
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from sinkctl.cache.policies import Dense, HeavyHitter, Recompute, SinkWindow
from sinkctl.cache.streaming import streaming
from sinkctl.model.load import DEMO, LoadedModel
from sinkctl.model.probe import probe
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.tasks.generate.decoder import Decoder
from sinkctl.tasks.generate.sampling import Sampler
from sinkctl.tasks.generate.settle import can_capture
from sinkctl.tasks.measure.input_set import InputSet
from sinkctl.tasks.measure.run import InputRun
from sinkctl.tasks.measure.settle import settle
from sinkctl.tasks.stream.scorers import scorer_for

ORIGINAL, TOKENS = 16, 40
PAIRS = dict(short_factor=[1.0] * 4, long_factor=[1.0, 2.0, 3.0, 4.0])
LONGROPE = dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=ORIGINAL, **PAIRS)
DYNAMIC = dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0)
MODELS = {
    "longrope": ("phi3", dict(rope_parameters=LONGROPE, original_max_position_embeddings=ORIGINAL)),
    "dynamic": ("llama", dict(rope_parameters=DYNAMIC, max_position_embeddings=ORIGINAL)),
}
MIXTURE = dict(original_max_position_embeddings=ORIGINAL, num_local_experts=4, num_experts_per_tok=2)
ROOMY = SinkWindow(sinks=2, window=45)  # reaches past the original length
IDS = torch.randint(3, 64, (TOKENS + 1,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=MODELS)
def scaling(request, monkeypatch):
    in_float64(monkeypatch)  # stock angles too
    return request.param


def loaded_of(scaling: str) -> LoadedModel:
    return LoadedModel(tiny(*MODELS[scaling]), None, scaling, "in memory")


def logits_of(loaded: LoadedModel, ids_T: torch.Tensor) -> torch.Tensor:
    """After a whole text, by the stock class alone; a copy, as dynamic NTK goes by the longest text it has seen."""
    with torch.no_grad():
        return copy.deepcopy(loaded.model)(input_ids=ids_T[None], use_cache=False).logits[0, -1]


def stock_nll(loaded: LoadedModel, tokens: int = TOKENS) -> np.ndarray:
    """Of every token after the text before it, each text by itself."""
    return np.array(
        [float(cross_entropy(logits_of(loaded, IDS[:n])[None], IDS[n : n + 1])) for n in range(1, tokens + 1)]
    )


def scored(loaded: LoadedModel, policy, chunk: int, resumed_at: int | None = None) -> np.ndarray:
    """In blocks; at one of them by a scorer that continues another."""
    scorer, losses = scorer_for(loaded, policy, bos=False), []
    for start in range(0, TOKENS, chunk):
        if start == resumed_at:
            (data, tensors), scorer = scorer.state(), scorer_for(loaded, policy, bos=False)
            scorer.restore(json.loads(json.dumps(data)), tensors)
        end = min(start + chunk, TOKENS)
        losses.append(scorer.step(IDS[start:end], IDS[start + 1 : end + 1]))
    return np.concatenate(losses)


def decoder_of(loaded: LoadedModel, policy, rows: int = 1) -> Decoder:
    return Decoder(loaded, policy, Sampler(rows, torch.device("cpu"), greedy=True), rows=rows, capacity=64)


def said(decoder: Decoder, prompts: list[torch.Tensor], count: int) -> list[list[int]]:
    first = [decoder.feed(prompts, 7).clone()] if prompts else []
    return torch.stack([*first, *(decoder.step().clone() for _ in range(count - len(first)))], 1).tolist()


def stock_said(loaded: LoadedModel, prompt_T: torch.Tensor, count: int) -> list[int]:
    ids_T = prompt_T
    for _ in range(count):
        ids_T = torch.cat([ids_T, logits_of(loaded, ids_T).argmax()[None]])
    return ids_T[len(prompt_T) :].tolist()


@pytest.mark.parametrize("policy", [Dense(), ROOMY], ids=["dense", "sink_window"])
def test_blocks_of_any_size_score_each_token_as_the_stock_class_does_at_its_length(scaling, policy):
    """Longrope at every length; dynamic NTK up to its context, and where the stretch is that of a text as long."""
    loaded = loaded_of(scaling)
    expected, found = stock_nll(loaded), [scored(loaded, policy, *blocks) for blocks in ((1,), (7, 14), (8, 24), (40,))]
    for each in found:
        np.testing.assert_allclose(each, found[0], rtol=0, atol=1e-10)
    exact = slice(None) if scaling == "longrope" else [*range(ORIGINAL), 2 * ORIGINAL - 1]
    np.testing.assert_allclose(found[0][exact], expected[exact], rtol=0, atol=1e-10)


def test_a_stream_that_outgrows_the_original_length_goes_on_as_one_that_was_turned_by_long_factors_throughout(scaling):
    loaded, policy = loaded_of(scaling), SinkWindow(sinks=2, window=20)
    facts = probe(loaded.model, policy.reach)
    throughout = token_by_token_nll(loaded.model, facts, [policy.keep(None)] * 2, IDS).numpy()
    expected = np.concatenate([stock_nll(loaded, ORIGINAL), throughout[ORIGINAL:]])
    for blocks in ((5, 15), (23,), (40,)):
        np.testing.assert_allclose(scored(loaded, policy, *blocks), expected, rtol=0, atol=1e-10)


def test_a_cache_that_never_holds_the_original_length_is_always_turned_by_short_factors(scaling):
    loaded, policy = loaded_of(scaling), SinkWindow(sinks=2, window=ORIGINAL - 3)
    facts = probe(loaded.model, 1)
    expected = token_by_token_nll(loaded.model, facts, [policy.keep(None)] * 2, IDS)
    np.testing.assert_allclose(scored(loaded, policy, 9), expected, rtol=0, atol=1e-10)


def test_a_class_that_is_said_to_change_and_does_not_is_followed(monkeypatch):
    """Phi-3.5-MoE: its short factors turn texts of any length, in transformers 5.15 to 5.24."""
    in_float64(monkeypatch)
    rope = LONGROPE | dict(short_mscale=1.2, long_mscale=1.2)
    loaded = LoadedModel(tiny("phimoe", dict(rope_parameters=rope, **MIXTURE)), None, "phimoe", "in memory")
    np.testing.assert_allclose(scored(loaded, Dense(), 7), stock_nll(loaded), rtol=0, atol=1e-10)


def test_windows_are_encoded_anew_at_their_own_length_whatever_the_blocks(monkeypatch):
    in_float64(monkeypatch)
    loaded, policy = loaded_of("longrope"), Recompute(sinks=0, window=45)
    expected = stock_nll(loaded)
    for chunk in (1, 7, 40):  # losses in float32
        np.testing.assert_allclose(scored(loaded, policy, chunk), expected, rtol=1e-6, atol=0)


def test_rows_are_continued_as_the_stock_class_continues_each_alone(scaling):
    """Prompts below the original length, at it and above; the state of one run goes on in another, and goes back."""
    loaded, policy = loaded_of(scaling), ROOMY if scaling == "longrope" else Dense()
    prompts, count = [IDS[:5], IDS[3 : 3 + ORIGINAL], IDS[10:40]], 16
    decoder = decoder_of(loaded, policy, 3)
    head = said(decoder, prompts, 4)
    state = decoder.state()
    other = decoder_of(loaded, policy, 3)
    other.restore(*state)
    tail = said(decoder, [], count - 4)
    assert said(other, [], count - 4) == tail
    decoder.restore(*state)
    assert said(decoder, [], count - 4) == tail
    for row, prompt in enumerate(prompts):
        expected = stock_said(loaded, prompt, count)
        exact = count if scaling == "longrope" else max(0, ORIGINAL + 1 - len(prompt))
        assert [*head[row], *tail[row]][:exact] == expected[:exact]
        alone = said(decoder_of(loaded, policy), [prompt], count)
        assert [*head[row], *tail[row]] == alone[0]


def test_generate_with_the_streaming_cache_and_rows_of_all_lengths(scaling):
    """From ids, and from embeddings."""
    loaded, count = loaded_of(scaling), 16
    prompts = [IDS[:5], IDS[3 : 3 + ORIGINAL], IDS[10:40]]
    expected = [said(decoder_of(loaded, ROOMY), [prompt], count)[0] for prompt in prompts]
    ids_BT, real_BT = torch.zeros(2, 3, 30, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids_BT[row, 30 - len(prompt) :], real_BT[row, 30 - len(prompt) :] = prompt, 1
    options = dict(
        attention_mask=real_BT, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
    )  # fmt: skip
    with streaming(loaded.model, sinks=ROOMY.sinks, window=ROOMY.window) as cache:
        out = loaded.model.generate(ids_BT, past_key_values=cache, **options)
        assert out[:, 30:].tolist() == expected
        cache.reset()
        embedded = loaded.model.get_input_embeddings()(ids_BT)
        assert loaded.model.generate(inputs_embeds=embedded, past_key_values=cache, **options).tolist() == expected
    assert "prepare_inputs_for_generation" not in vars(loaded.model)


def test_eviction_is_not_captured_where_rows_may_turn_unlike_each_other(monkeypatch):
    """Such rows go through one after the other, which asks the host where they stand."""
    loaded = loaded_of("longrope")
    monkeypatch.setattr(LoadedModel, "device", property(lambda self: torch.device("cuda")))
    assert can_capture(loaded, ROOMY)[0]
    captured, why = can_capture(loaded, HeavyHitter(sinks=2, window=45))
    assert not captured
    assert "rows may turn by frequencies of their own" in why


def test_beams_are_those_of_the_stock_class(monkeypatch):
    """Without a cache, which `generate()` would go on from with keys turned by short factors."""
    in_float64(monkeypatch)
    loaded = loaded_of("longrope")
    options = dict(num_beams=3, max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0)
    expected = loaded.model.generate(IDS[None, :12], use_cache=False, **options)
    with streaming(loaded.model, sinks=ROOMY.sinks, window=ROOMY.window) as cache:
        found = loaded.model.generate(IDS[None, :12], past_key_values=cache, **options)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("scaling", MODELS)
def test_samples_are_measured_as_if_alone_whatever_is_beside_or_before_them(scaling):
    found = []
    for batch, samples in ((1, [IDS[:10], IDS[:20], IDS[:40]]), (3, [IDS[:40], IDS[:20], IDS[:10]])):
        shown = InputSet("natural", "natural", False, samples, lambda *_: "")
        run = InputRun(settle(MeasureRecipe(batch=batch)), loaded_of(scaling), shown)
        found.append(run(lambda _: None, lambda: False)[1])
    assert found[0].keys() == found[1].keys()
    for name, alone in found[0].items():
        torch.testing.assert_close(found[1][name], alone, rtol=0, atol=1e-6, equal_nan=True)


def test_a_run_says_which_frequencies_it_chose(tmp_path, sinkctl):
    model_type, settings = MODELS["longrope"]
    model = tiny(model_type, settings | dict(vocab_size=4096), torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    for words, grew in (("It was the best of times", False), ("It was the best of times, it was the worst " * 3, True)):
        (tmp_path / "text.txt").write_text(words)
        ids = torch.tensor(tokenizer(words).input_ids)
        assert (len(ids) - 1 > ORIGINAL) == grew
        code, out, err = sinkctl("stream", tmp_path / "text.txt", "--model", tmp_path / "m", "-p", "dense", "--json")
        assert code == 0, err
        result = json.loads(out)
        choice = result["choices"]["rotary frequencies of dense"]
        assert ("never held more" in choice) != grew
        assert any("in again" in note for note in result["notes"]) == grew
        if not grew:
            with torch.no_grad():
                logits = model(input_ids=ids[None, :-1]).logits[0]
            expected = math.exp(cross_entropy(logits, ids[1:]))
            assert result["stream"]["policies"][0]["perplexity"] == pytest.approx(expected, rel=1e-5)
