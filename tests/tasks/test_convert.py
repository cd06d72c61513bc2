"""Conversions from end to end: exact where they must be, on the built-in model and tiny ones; and what goes wrong."""

import copy
import errno
import shutil

import pytest
import torch
from families import STREAMED, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from sinkctl.cache.policies import SinkWindow
from sinkctl.errors import Interrupted, ModelError, TextError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.model.positions import Rotation
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.sinks import SINKS
from sinkctl.sinks.storage import form_for, granite_swa, own_code
from sinkctl.sinks.tokenizer import without_bos
from sinkctl.tasks.convert import evaluate, run
from sinkctl.tasks.convert.calibrate import calibrate, sample_length, slow_part
from sinkctl.tasks.convert.start import starts_of
from sinkctl.tasks.convert.streamed import Fed
from sinkctl.tasks.convert.training.trained import runnable, taken_apart
from sinkctl.tasks.stream.scorers import scorer_for

BRIEF = {"tokens": 64, "samples": 4, "length": 64}
QUICK = {"calibration": {"samples": 4, "window": 64}, "evaluation": {"tokens": 1024, "samples": 4, "length": 64}}


def convert(path, kind: str, loaded=None, **settings):
    recipe = ConvertRecipe.model_validate({**QUICK, **settings, "sink": {"kind": kind, **settings.get("sink", {})}})
    return run(recipe, loaded, output=path)


def nll(loaded: LoadedModel, policy: SinkWindow, ids_T: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(scorer_for(loaded, policy, bos=True).step(ids_T[:-1], ids_T[1:]))


@pytest.mark.parametrize("family", ["llama", "llama_yarn", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt_neox"])
def test_with_the_first_token_s_key_and_value_a_model_streams_as_if_that_token_were_kept(family, tmp_path):
    model, window = tiny(*STREAMED[family], dtype=torch.float64), 7
    original = LoadedModel(model, None, family, "in memory")
    ids_T = torch.randint(3, 64, (120,), generator=torch.Generator().manual_seed(1))
    ids_T[0] = 1
    record = calibrate(original, [ids_T[: sample_length(window)]], window)
    starts = starts_of(SINKS["kv_bias"](), original, record, window)
    own_code.build(model, SINKS["kv_bias"](), starts).save_pretrained(tmp_path)
    converted = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    kept = nll(original, SinkWindow(sinks=1, window=window), ids_T)
    ours = nll(LoadedModel(converted, None, family, "in memory"), SinkWindow(sinks=0, window=window), ids_T[1:])
    bare = nll(original, SinkWindow(sinks=0, window=window), ids_T[1:])
    settled = 40  # deeper layers hold no more of what came before the cache was full
    assert (ours[settled - 1 :] - kept[settled:]).abs().max() < 1e-5
    assert (bare[settled - 1 :] - kept[settled:]).abs().max() > 1e-2


def test_samples_side_by_side_are_judged_as_one_by_one(demo, stories, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    bodies = list(torch.randint(3, 500, (5, 40), generator=generator))
    ours, theirs = (Fed(name, loaded, (1,), "BOS") for name, loaded in (("converted", stories), ("original", demo)))
    found = []
    for rows in (1, 2):
        monkeypatch.setattr(evaluate, "_rows_at_once", lambda fed, bodies, rows=rows: rows)
        found.append(evaluate._predicted(ours, theirs, bodies, 20, lambda tokens: None))
    (one, one_kl), (two, two_kl) = found
    torch.testing.assert_close(torch.from_numpy(two), torch.from_numpy(one), rtol=1e-5, atol=1e-5)
    assert len(one) == 5 * 19
    assert one_kl == pytest.approx(two_kl, rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_samples_side_by_side_calibrate_as_one_by_one(family, monkeypatch):
    model, window = tiny(*STREAMED[family], dtype=torch.float64), 7
    loaded = LoadedModel(model, None, family, "in memory")
    generator = torch.Generator().manual_seed(2)
    samples = list(torch.randint(3, 64, (5, sample_length(window)), generator=generator))
    found = []
    for rows in (1, 2):
        monkeypatch.setattr("sinkctl.tasks.convert.calibrate.auto_chunk", lambda _, rows=rows: (rows * 16, ""))
        found.append(calibrate(loaded, samples, window, whole_rows=True, hidden=True, folded=True))
    for one, two in zip(*found, strict=True):
        assert len(one.rows) == len(two.rows) == 5
        for mine, other in (*zip(one.rows, two.rows, strict=True), (vars(one), vars(two)), (one.folded, two.folded)):
            pairs = (mine, other) if isinstance(mine, dict) else (mine._asdict(), other._asdict())
            for name, value in pairs[0].items():
                if isinstance(value, (int, float, torch.Tensor)):
                    torch.testing.assert_close(pairs[1][name], value, rtol=1e-6, atol=1e-6)


def test_a_held_out_text_shorter_than_a_sample_is_one_sample(demo, tmp_path):
    short = {"tokens": 20, "samples": 4, "length": 256}
    result = convert(tmp_path / "out", "softmax1", demo, calibration={"samples": 1, "window": 16}, evaluation=short)
    assert result.result.convert.scored == (2 * 16 + 20) // 2 - 1  # the second half, but for its first token


OWN = ("llama", "llama_yarn", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt_neox")


def still(family: str):
    """A tiny model in which nothing turns but the first pair of each head, which no query sees."""
    model_type, settings = STREAMED[family]
    rope = {"rope_type": "default", **settings.get("rope_parameters", {}), "rope_theta": 1e60}
    rope |= {"partial_rotary_factor": 0.25} if family == "gpt_neox" else {}
    rope = dict.fromkeys(("full_attention", "sliding_attention"), rope) if family == "gemma3" else rope
    linear = {"attn_logit_softcapping": 1e6} if family == "gemma2" else {}
    model = tiny(model_type, {**settings, **linear, "rope_parameters": rope}, dtype=torch.float64)
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    with torch.no_grad():
        for name, x in model.named_parameters():
            if ".q_proj." in name:
                x.unflatten(0, (-1, 2, width // 2))[:, :, 0] = 0
            if ".query_key_value." in name:
                x.unflatten(0, (-1, 3, width))[:, 0, [0, width // 8]] = 0
    return model


@pytest.mark.parametrize("kind", ["sink_logit", "softmax1"])
@pytest.mark.parametrize(
    ("family", "own"),
    [*((family, False) for family in OWN[:4]), *((family, True) for family in OWN)],
)
def test_a_first_token_whose_key_does_not_turn_goes_into_what_keys_and_values_lose(family, own, kind, tmp_path):
    model, window = still(family), 7
    original = LoadedModel(model, None, family, "in memory")
    ids_T = torch.randint(3, 64, (120,), generator=torch.Generator().manual_seed(1))
    ids_T[0] = 1
    samples = [torch.cat([ids_T[:1], ids_T[start:][: sample_length(window) - 1]]) for start in (1, 20)]
    record = calibrate(original, samples, window, folded=True)
    starts = starts_of(SINKS[kind](), original, record, window)
    assert max(float(start["logit"].abs().max()) for start in starts) < 1e-4, "the biases hold all of it"
    built = own_code.build(model, SINKS[kind](), starts) if own else granite_swa.build(model, starts)
    built.save_pretrained(tmp_path)
    converted = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    kept = nll(original, SinkWindow(sinks=1, window=window), ids_T)
    ours = nll(LoadedModel(converted, None, family, "in memory"), SinkWindow(sinks=0, window=window), ids_T[1:])
    bare = nll(original, SinkWindow(sinks=0, window=window), ids_T[1:])
    assert (ours[39:] - kept[40:]).abs().max() < 1e-4
    assert (bare[39:] - kept[40:]).abs().max() > 1e-2


@pytest.mark.parametrize("family", OWN)
def test_a_training_begins_with_what_is_written_untrained_and_comes_back_to_it(family, tmp_path):
    model, window = tiny(*STREAMED[family], dtype=torch.float32), 7
    original = LoadedModel(model, None, family, "in memory")
    ids_T = torch.randint(3, 64, (sample_length(window),), generator=torch.Generator().manual_seed(1))
    sink = SINKS["sink_logit"]()
    starts = starts_of(sink, original, calibrate(original, [ids_T], window, folded=True), window)
    form = form_for(sink, model.config)
    assert form.own_code is (family not in OWN[:4])
    form.build(model, starts).save_pretrained(tmp_path / "untrained")
    training = runnable(model, sink, starts)
    form.build(*taken_apart(training, model, sink)).save_pretrained(tmp_path / "back")
    untrained, back = (AutoModelForCausalLM.from_pretrained(tmp_path / x).eval() for x in ("untrained", "back"))
    for name, tensor in untrained.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, rtol=0, atol=1e-7)
    with torch.no_grad():
        for other in (training, back):
            found, expected = (each(input_ids=ids_T[None]).logits for each in (other, untrained))
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    lost = [x for name, x in training.named_parameters() if name.endswith("lost_key")]
    assert len(lost) == model.config.num_hidden_layers
    assert all(bool(x.abs().max() > 1e-3) and not x.requires_grad for x in lost)


def test_of_a_key_what_turns_by_less_than_a_radian_is_slow():
    key_GD = torch.arange(1.0, 9.0)[None]
    halves = Rotation("half", 0, torch.tensor([1.0, 0.02, 0.0]).double())
    pairs = Rotation("interleaved", 2, torch.tensor([1.0, 0.02, 0.0]).double())
    angle = torch.tensor(-0.02 * 5)
    second, fifth = 2 * angle.cos() - 5 * angle.sin(), 5 * angle.cos() + 2 * angle.sin()
    slow_D = torch.tensor([0.0, second, 3.0, 0.0, fifth, 6.0, 7.0, 8.0])
    assert torch.allclose(slow_part(key_GD, halves, reach=5, read=49)[0], slow_D, atol=1e-6)
    none_D = torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 7.0, 8.0])
    assert torch.allclose(slow_part(key_GD, pairs, reach=5, read=51)[0], none_D, atol=1e-6)
    assert torch.equal(slow_part(key_GD, None, reach=5, read=51), key_GD)


def test_keys_lose_what_is_slow_within_the_reach_of_their_layer():
    """Gemma-3: a layer that sees 8 past tokens, and one that sees all of 128."""
    loaded, window = LoadedModel(tiny(*STREAMED["gemma3"], dtype=torch.float32), None, "gemma3", "in memory"), 7
    ids_T = torch.randint(3, 64, (sample_length(window),), generator=torch.Generator().manual_seed(1))
    layers = loaded.layers(window + 1)
    assert [layer.window for layer in layers] == [8, None]
    for layer, one, read in zip(layers, calibrate(loaded, [ids_T], window, folded=True), (8, 128), strict=True):
        lost = one.folded.key_GD.unflatten(-1, (2, -1)).abs().amax((0, 1)) > 0
        assert lost.tolist() == (layer.rotation.inv_freq_n * read < 1).tolist()
        assert 0 < lost.sum() < len(lost)


def test_calibration_is_the_published_rule_with_one_sink(demo, book):
    ids_T = torch.tensor(demo.tokenizer(book[:8000]).input_ids)[: sample_length(40)]
    (first, *_) = calibrate(demo, [ids_T], 40)
    eager = AutoModelForCausalLM.from_pretrained(
        demo.model.config.name_or_path, dtype=torch.float32, attn_implementation="eager"
    )
    # Of the first layer the rule is but a mask: what a query sees does not depend on what others saw.
    place_T = torch.arange(len(ids_T))
    distance_TT = place_T[:, None] - place_T
    seen_TT = (distance_TT >= 0) & ((distance_TT <= 40) | (place_T == 0))
    mask = torch.zeros(1, 1, *seen_TT.shape).masked_fill(~seen_TT, torch.finfo(torch.float32).min)
    # The sink stands at its capped distance: position t is 41 for a query with a full cache.
    query = len(ids_T) - 1
    position_T = place_T.clone()
    position_T[0] = query - 41
    with torch.no_grad():
        out = eager(ids_T[None], attention_mask=mask, position_ids=position_T[None], output_attentions=True)
    assert torch.allclose(first.mass_HN[:, -1], out.attentions[0][0, :, query, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "model_type", "closes"),
    [
        ("sink_logit", "granite_swa", 0.97),
        ("softmax1", "granite_swa", 0.8),
        ("kv_bias", "sink_llama", 0.97),
        ("value_bias", "llama", None),
    ],
)
def test_the_built_in_model_streams_without_kept_tokens_by_design(demo, tmp_path, kind, model_type, closes):
    out = convert(tmp_path / "out", kind, demo, sink={"start": "match"})
    detail = out.result.convert
    assert detail.model_type == model_type
    assert max(detail.calibration.key_spread, detail.calibration.value_spread) < 1e-5, "it sees itself alone"
    gap = out.result.measurement("gap_closed").value / 100
    assert gap > closes if closes else gap < 0.6, "the control must not work"
    assert out.result.measurement("original.sink_rate").value > 60
    assert out.result.measurement("sink_rate").value < 5
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("Call me").input_ids == demo.tokenizer("Call me", add_special_tokens=False).input_ids
    if kind == "sink_logit":
        assert 0.1 < out.result.measurement("mechanism_mass").value < 0.6


def test_a_model_is_what_it_was_after_exact_starts_and_keeps_its_bos(demo, tmp_path):
    exact = {"sink_logit": {"start": "exact"}, "gate": {}, "none": {}, "clipped_softmax": {"start": "zero", "alpha": 0}}
    for kind, sink in exact.items():
        out = convert(tmp_path / kind, kind, demo, sink=sink, evaluation=BRIEF)
        assert out.result.measurement("kl").value < 1e-7
        assert out.result.measurement("samples.perplexity").value == pytest.approx(
            out.result.measurement("original.samples.perplexity").value, rel=1e-5
        )
        assert AutoTokenizer.from_pretrained(tmp_path / kind)("a").input_ids[0] == demo.bos_id


def test_a_first_token_that_is_not_always_the_same_is_said_to_vary(demo, tmp_path):
    tokenizer = copy.deepcopy(demo.tokenizer)
    without_bos(tokenizer)
    bare = LoadedModel(demo.model, tokenizer, "bare", demo.fingerprint)
    result = convert(tmp_path / "out", "sink_logit", bare, evaluation={"run": False}).result
    assert result.convert.calibration.key_spread > 0.1
    assert any("begin with a token of their own" in note for note in result.notes)


def test_a_model_that_begins_with_no_token_of_its_own_gets_the_best_one_as_its_sink_token(demo, tmp_path):
    tokenizer = copy.deepcopy(demo.tokenizer)
    without_bos(tokenizer)
    bare = LoadedModel(demo.model, tokenizer, "bare", demo.fingerprint)
    out = convert(tmp_path / "out", "sink_token", bare, evaluation=BRIEF)
    assert "'<|bos|>'" in out.result.choices["embedding"], "the one that it was trained with predicts best"
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    sink = tokenizer.convert_tokens_to_ids("<|sink|>")
    assert tokenizer("Once").input_ids[0] == sink == written.config.bos_token_id
    assert sink in written.generation_config.suppress_tokens
    converted = [line for line in out.result.convert.streams if line.checkpoint == "converted"]
    assert converted[0].first == "sink token"


def test_the_weights_keep_the_dtype_of_the_source_and_sinks_theirs(demo, tmp_path):
    convert(tmp_path / "out", "key_bias", demo, evaluation={"run": False})
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    dtypes = {name.split(".")[-2] == "sink": x.dtype for name, x in written.named_parameters()}
    assert dtypes == {False: torch.float16, True: torch.float32}
    ours = dict(written.named_parameters())
    for name, theirs in demo.model.named_parameters():
        assert torch.equal(theirs, ours[name].float()), name


def test_what_cannot_be_converted_is_refused_before_any_work(demo, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        convert(tmp_path / "taken", "sink_logit", demo)
    assert (tmp_path / "taken" / "file").read_text() == "mine"
    convert(tmp_path / "once", "softmax1", demo, evaluation={"run": False})
    with pytest.raises(ModelError, match="sink logits already"):
        convert(tmp_path / "twice", "sink_logit", model={"name": str(tmp_path / "once")})
    convert(tmp_path / "own", "elu", demo, evaluation={"run": False})
    with pytest.raises(ModelError, match=r"converted checkpoint \(elu\)"):
        convert(tmp_path / "twice", "sink_logit", model={"name": str(tmp_path / "own")})
    with pytest.raises(ModelError, match="no code for olmo2, only for llama"):
        convert(tmp_path / "no", "kv_bias", LoadedModel(tiny("olmo2", {}), demo.tokenizer, "olmo", "in memory"))
    with pytest.raises(ModelError, match="cannot be stored in a stock class"):
        convert(tmp_path / "no", "kv_bias", demo, store="stock")
    (tmp_path / "short.txt").write_text("Too short a text.")
    with pytest.raises(TextError, match="it takes 512 to calibrate on"):
        convert(tmp_path / "no", "sink_logit", demo, text={"files": [str(tmp_path / "short.txt")]})
    assert not (tmp_path / "no").exists()
    assert not (tmp_path / "twice").exists()


def test_a_full_disk_or_a_stop_leaves_nothing_behind(demo, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(ModelError, match="GB are free"):
            convert(tmp_path / "out", "sink_logit", demo)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedModel.save_pretrained", full)
        with pytest.raises(ModelError, match=r"No space left on device.*nothing was left behind"):
            convert(tmp_path / "out", "sink_logit", demo, evaluation={"run": False})
    recipe = ConvertRecipe.model_validate({**QUICK, "calibration": {"samples": 2, "window": 16}})
    for after in range(4):
        asked = iter([False] * after + [True])
        with pytest.raises(Interrupted, match="nothing was written"):
            run(recipe, demo, output=tmp_path / "out", stop=asked.__next__)
    assert list(tmp_path.iterdir()) == []


def test_converting_leaves_the_model_it_was_given_as_it_was(demo, tmp_path):
    model = copy.deepcopy(demo.model)
    model.resize_token_embeddings(4160)  # spare rows, as most vocabularies have
    loaded = LoadedModel(model, copy.deepcopy(demo.tokenizer), "padded", "in memory")
    before = {name: x.clone() for name, x in model.state_dict().items()}
    for kind in ("sink_token", "sink_logit", "gate"):
        convert(tmp_path / kind, kind, loaded, evaluation={"run": False})
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "sink_token").get_input_embeddings().num_embeddings == 4160


def test_numbers_that_are_none_pass_no_threshold(demo, tmp_path):
    model = copy.deepcopy(demo.model)
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[0] = 1e38  # what comes of it is not finite
    broken = LoadedModel(model, demo.tokenizer, "broken", "in memory")
    result = convert(tmp_path / "out", "sink_token", broken, evaluation=BRIEF).result
    assert result.measurement("kl") is None
    assert result.measurement("samples.perplexity") is None


def test_a_model_in_memory_whose_weights_are_not_finite_is_not_converted(demo, tmp_path):
    model = copy.deepcopy(demo.model)
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[0] = torch.nan
    with pytest.raises(ModelError, match=r"broken: model\.layers\.3\.mlp\.down_proj\.weight has 512 NaN"):
        convert(tmp_path / "out", "sink_token", LoadedModel(model, demo.tokenizer, "broken", "in memory"))


def test_a_checkpoint_without_a_tokenizer_is_refused_as_such(demo, tmp_path):
    with pytest.raises(ModelError, match="bare has no tokenizer"):
        convert(tmp_path / "out", "sink_logit", LoadedModel(demo.model, None, "bare", "in memory"))
