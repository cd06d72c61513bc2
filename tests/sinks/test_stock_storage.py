"""Stock storage forms: a checkpoint saved and loaded by transformers alone, against its source with the sink by hand.

Shapes: B batch, H query heads, T queries, S keys, E value width, O rows of a gate.
"""

import copy

import pytest
import torch
from families import DELTA, LLAMA3, SLIDING, YARN, in_float64, tiny
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.models.auto import modeling_auto

from sinkctl.check.convert import OUTPUT_BIAS
from sinkctl.errors import ModelError
from sinkctl.model.probe import probe
from sinkctl.sinks import SINKS
from sinkctl.sinks.storable import unstorable_for
from sinkctl.sinks.storage import biased, form_for, gated, granite_swa

HEADS, HIDDEN, EVERYTHING = 4, 32, 10**6
WINDOWED = dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)
DYNAMIC = dict(rope_type="dynamic", factor=2.0, rope_theta=10000.0)
LINEAR = dict(rope_type="linear", factor=2.0, rope_theta=10000.0)
LONGROPE = dict(
    rope_type="longrope", factor=4.0, short_factor=[1.0] * 4, long_factor=[1.0, 2.0, 3.0, 4.0],
    original_max_position_embeddings=16, rope_theta=10000.0,
)  # fmt: skip
MULTIPLIED = dict(attention_multiplier=0.5, embedding_multiplier=2.0, residual_multiplier=0.7, logits_scaling=3.0)
ODD = dict(hidden_size=36, head_dim=8, num_attention_heads=8)  # which no Llama config may have
BIASED = dict(attention_bias=True, mlp_bias=True)
# name → (model_type, settings, window of each layer: the query counted, None sees everything)
DENSE = {
    "llama": ("llama", {}, (None, None)),
    "llama_tied_llama3": ("llama", dict(tie_word_embeddings=True, rope_parameters=LLAMA3), (None, None)),
    "llama_biased_yarn": ("llama", dict(rope_parameters=YARN, **BIASED), (None, None)),
    "llama_dynamic": ("llama", dict(rope_parameters=DYNAMIC, max_position_embeddings=16), (None, None)),
    "llama_linear": ("llama", dict(rope_parameters=LINEAR), (None, None)),
    "mistral": ("mistral", dict(sliding_window=5, head_dim=16, num_hidden_layers=4), (5, 5, 5, 5)),
    "mistral_full": ("mistral", dict(sliding_window=None, rope_parameters=LONGROPE), (None, None)),
    "qwen2": ("qwen2", {}, (None, None)),
    "qwen2_windowed": ("qwen2", dict(tie_word_embeddings=True, **WINDOWED), (None, 5)),
    "granite": ("granite", MULTIPLIED, (None, None)),
}
# name → as above, and the class that it is stored in
WITH_BIAS = {
    **{name: (*DENSE[name], "llama") for name in ("llama", "llama_biased_yarn", "mistral_full", "qwen2")},
    **{name: (*DENSE[name], "smollm3") for name in ("mistral", "qwen2_windowed")},
    "mistral_odd_width": ("mistral", dict(ODD, sliding_window=None), (None, None), "smollm3"),
    "granite": (*DENSE["granite"], "granite"),
    "qwen3": ("qwen3", dict(head_dim=16), (None, None), "qwen3"),
    "gemma2": (
        "gemma2",
        dict(hidden_size=64, head_dim=16, query_pre_attn_scalar=16, attn_logit_softcapping=2.0, **SLIDING),
        (9, None),
        "gemma2",
    ),
    "gpt_neox": ("gpt_neox", dict(rotary_pct=0.25, num_key_value_heads=None), (None, None), "gpt_neox"),
    "gpt_neox_unbiased": ("gpt_neox", dict(attention_bias=False, num_key_value_heads=None), (None, None), "gpt_neox"),
    "phi": ("phi", dict(partial_rotary_factor=0.5), (None, None), "phi"),
    "starcoder2": ("starcoder2", dict(sliding_window=9), (9, 9), "starcoder2"),
}
QWEN3 = {
    "plain": dict(head_dim=16),
    "tied_llama3": dict(head_dim=16, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "biased_yarn": dict(head_dim=16, attention_bias=True, rope_parameters=YARN),
    "windowed": dict(head_dim=16, **WINDOWED),
}
HEADWISE = ["headwise"] if "lfm3" in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else []  # of a recent transformers
GATED = [(name, form) for name in QWEN3 for form in HEADWISE] + [
    (name, "elementwise") for name in QWEN3 if name != "windowed"
]
by_dense_name = pytest.mark.parametrize("name", DENSE)
by_bias_name = pytest.mark.parametrize("name", WITH_BIAS)
by_gate = pytest.mark.parametrize(("name", "form"), GATED)


def source(model_type: str, settings: dict, dtype: torch.dtype = torch.float64):
    """A tiny checkpoint without a bias of 0 or a norm of 1 (norms: 0.5 … 2)."""
    model = tiny(model_type, settings, dtype)
    if settings.get("sliding_window", 0) is None:  # which `tiny` leaves at its default
        model.config.sliding_window = None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
            elif name.endswith("norm.weight") and model_type != "gemma2":
                parameter.uniform_(0.5, 2.0)
    return model


def text(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of token ids, and which are real: the first row begins with padding."""
    ids_BT = torch.randint(3, 64, (2, 20), generator=torch.Generator().manual_seed(seed))
    real_BT = torch.ones_like(ids_BT)
    real_BT[0, :4] = 0
    return ids_BT.masked_fill(real_BT == 0, 0), real_BT


def reloaded(model, folder, dtype: torch.dtype = torch.float64):
    model.save_pretrained(folder)
    loaded, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    return loaded.to(dtype).eval()  # rotary frequencies too, as those of the source


@torch.no_grad()
def logits(model, ids_BT, real_BT):
    """Without a cache; position ids count the real tokens, as in `generate`."""
    positions_BT = (real_BT.cumsum(-1) - 1).clamp(min=0)
    return model(ids_BT, attention_mask=real_BT, position_ids=positions_BT, use_cache=False).logits


def by_hand(model, starts, windows):
    """`logits` of the source with one more column in its softmax, a bias behind its heads, and masks made here."""

    def run(ids_BT, real_BT):
        position_T = torch.arange(ids_BT.shape[1])
        past_TS = position_T[:, None] - position_T

        def attend(module, query, key, value, attention_mask, scaling, softcap=None, **kwargs):
            start, window = starts[module.layer_idx], windows[module.layer_idx] or EVERYTHING
            repeats = query.shape[1] // key.shape[1]
            score_BHTS = query @ key.repeat_interleave(repeats, 1).mT * scaling
            if softcap is not None:
                score_BHTS = softcap * torch.tanh(score_BHTS / softcap)
            seen_BTS = (past_TS >= 0) & (past_TS < window) & real_BT[:, None, :].bool() | (past_TS == 0)
            score_BHTS = score_BHTS.masked_fill(~seen_BTS[:, None], -torch.inf)
            if "logit" in start:
                sink_BHT1 = start["logit"].to(score_BHTS)[:, None, None].expand(*score_BHTS.shape[:-1], 1)
                score_BHTS = torch.cat([score_BHTS, sink_BHT1], dim=-1)
            weight_BHTS = score_BHTS.softmax(-1)[..., : len(position_T)]
            out_BTHE = (weight_BHTS @ value.repeat_interleave(repeats, 1)).transpose(1, 2)
            return out_BTHE + start["bias"].to(out_BTHE) if "bias" in start else out_BTHE, None

        AttentionInterface.register("sinks_by_hand", attend)
        other = copy.deepcopy(model)
        other.set_attn_implementation("sinks_by_hand")
        return logits(other, ids_BT, real_BT)

    return run


def with_gates(model, starts):
    """`logits` of the source, whose heads are each multiplied by 2 σ(W x) before the output projection."""
    other = copy.deepcopy(model)
    for layer, start in zip(other.model.layers, starts, strict=True):
        attention, weight_OC = layer.self_attn, start["gate.weight"].to(model.dtype)
        repeats = attention.o_proj.in_features // len(weight_OC)
        attention.register_forward_pre_hook(
            lambda module, args, kwargs: setattr(module, "x_BTC", kwargs["hidden_states"]), with_kwargs=True
        )

        def gate(module, args, attention=attention, weight_OC=weight_OC, repeats=repeats):
            gate_BTO = 2 / (1 + torch.exp(-attention.x_BTC @ weight_OC.T))
            return args[0] * gate_BTO.repeat_interleave(repeats, -1)

        attention.o_proj.register_forward_pre_hook(gate)
    return lambda ids_BT, real_BT: logits(other, ids_BT, real_BT)


def drawn(layers: int = 2, **shapes: tuple[tuple[int, ...], float]) -> list[dict[str, torch.Tensor]]:
    """A start a layer, float32 as calibration gives it: uniform from −scale to scale; logits from 0 to scale."""
    generator = torch.Generator().manual_seed(2)
    starts = [
        {name: (2 * torch.rand(shape, generator=generator) - 1) * scale for name, (shape, scale) in shapes.items()}
        for _ in range(layers)
    ]
    for start in starts:
        if "logit" in start:
            start["logit"] = start["logit"].abs()
    return starts


def gate_starts(model, form: str, scale: float):
    rows = HEADS if form == "headwise" else HEADS * model.config.head_dim
    return drawn(**{"gate.weight": ((rows, HIDDEN), scale)})


def heads_of(model) -> tuple[int, int]:
    _, projection = biased.output_projections(model)[0]
    return model.config.num_attention_heads, projection.in_features // model.config.num_attention_heads


def assert_agree(stored, reference, plain, monkeypatch) -> None:
    """In float64 within 1e-9, where the source without the change is 0.05 or more away."""
    ids_BT, real_BT = text()
    in_float64(monkeypatch)
    ours, theirs, unchanged = (run(ids_BT, real_BT)[real_BT == 1] for run in (runs(stored), reference, runs(plain)))
    assert (theirs - unchanged).abs().max() > 0.05
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def assert_writes_the_same(model, reference) -> None:
    """Cached greedy generation against the argmax of the reference, which has no cache."""
    ids_BT, real_BT = text(seed=3)
    model.generation_config.eos_token_id = None
    written_BT = model.generate(ids_BT, attention_mask=real_BT, max_new_tokens=12, do_sample=False)
    for _ in range(12):
        next_B1 = reference(ids_BT, real_BT)[:, -1:].argmax(-1)
        ids_BT, real_BT = torch.cat([ids_BT, next_B1], 1), torch.cat([real_BT, torch.ones_like(next_B1)], 1)
    assert written_BT.tolist() == ids_BT.tolist()


def assert_same_bits(stored, model) -> None:
    ids_BT, real_BT = text()
    assert torch.equal(logits(stored, ids_BT, real_BT)[real_BT == 1], logits(model, ids_BT, real_BT)[real_BT == 1])


def runs(model):
    return lambda ids_BT, real_BT: logits(model, ids_BT, real_BT)


@by_dense_name
def test_a_sink_that_takes_nothing_changes_no_bit(name, tmp_path):
    model_type, settings, windows = DENSE[name]
    model, start = source(model_type, settings, torch.float32), {"logit": torch.full((HEADS,), -1e4)}
    stored = reloaded(granite_swa.build(model, [start] * len(windows)), tmp_path, torch.float32)
    assert stored.config.model_type == "granite_swa"
    assert_same_bits(stored, model)


@by_dense_name
def test_visible_sinks_and_biases_are_those_of_a_softmax_with_one_more_column(name, tmp_path, monkeypatch):
    model_type, settings, windows = DENSE[name]
    model = source(model_type, settings)
    starts = drawn(len(windows), logit=((HEADS,), 3.0), bias=(heads_of(model), 1.0))
    stored = reloaded(granite_swa.build(model, starts), tmp_path)
    assert_agree(stored, by_hand(model, starts, windows), model, monkeypatch)
    if name != "llama_dynamic":  # a cache keeps keys turned by the frequencies of shorter texts
        assert_writes_the_same(stored, by_hand(model, starts, windows))


@pytest.mark.parametrize("name", ["llama", "mistral_full", "qwen2_windowed", "mistral"])
def test_one_layer_slides_for_llama_cpp_and_real_windows_stay(name, tmp_path):
    model_type, settings, windows = DENSE[name]
    model = source(model_type, settings, torch.float32)
    stored = reloaded(granite_swa.build(model, drawn(len(windows), logit=((HEADS,), 3.0))), tmp_path, torch.float32)
    slides = [kind == "sliding_attention" for kind in stored.config.layer_types]
    real = [window is not None for window in windows]
    assert slides == (real if any(real) else [True, *real[1:]])
    assert stored.config.sliding_window == (5 if any(real) else 2**20)
    assert [facts.window for facts in probe(stored, 127)] == [window and window - 1 for window in windows]
    ids_BT = text()[0][1:]
    asked = dict(max_new_tokens=12, do_sample=False)
    written = stored.generate(ids_BT, **asked)
    assert torch.equal(stored.generate(ids_BT, cache_implementation="static", **asked), written)
    if not any(real):  # as it was stored before
        stored.config.layer_types, stored.config.sliding_window = ["full_attention"] * len(windows), 128
        stored.save_pretrained(tmp_path / "before")
        before = AutoModelForCausalLM.from_pretrained(tmp_path / "before", attn_implementation="eager")
        assert [facts.window for facts in probe(before, 127)] == [None] * len(windows)
        assert torch.equal(before(ids_BT).logits, stored(ids_BT).logits)


def test_sinks_alone_need_no_bias_in_llama_and_keep_that_of_qwen2(tmp_path, monkeypatch):
    for model_type, has_bias in (("llama", False), ("qwen2", True)):
        model, starts = source(model_type, {}), drawn(logit=((HEADS,), 3.0))
        stored = reloaded(granite_swa.build(model, starts), tmp_path / model_type)
        assert stored.config.attention_bias is has_bias
        assert_agree(stored, by_hand(model, starts, (None, None)), model, monkeypatch)


@by_bias_name
def test_a_bias_of_zero_changes_no_bit(name, tmp_path):
    model_type, settings, windows, stored_as = WITH_BIAS[name]
    model = source(model_type, settings, torch.float32)
    starts = [{"bias": torch.zeros(heads_of(model))}] * len(windows)
    stored = reloaded(biased.build(model, starts), tmp_path, torch.float32)
    assert stored.config.model_type == stored_as
    assert_same_bits(stored, model)


@by_bias_name
def test_a_bias_behind_the_heads_is_what_the_source_gives_with_it_added_by_hand(name, tmp_path, monkeypatch):
    model_type, settings, windows, _ = WITH_BIAS[name]
    model = source(model_type, settings)
    starts = drawn(len(windows), bias=(heads_of(model), 1.0))
    stored = reloaded(biased.build(model, starts), tmp_path)
    assert_agree(stored, by_hand(model, starts, windows), model, monkeypatch)
    assert_writes_the_same(stored, by_hand(model, starts, windows))


@by_gate
def test_a_gate_of_zero_weights_changes_no_bit(name, form, tmp_path):
    model = source("qwen3", QWEN3[name], torch.float32)
    stored = reloaded(gated.build(model, gate_starts(model, form, 0.0)), tmp_path, torch.float32)
    assert stored.config.model_type == {"headwise": "lfm3", "elementwise": "qwen3_5_text"}[form]
    assert_same_bits(stored, model)


@by_gate
def test_a_trained_gate_is_what_the_source_gives_with_its_heads_multiplied_by_hand(name, form, tmp_path, monkeypatch):
    model = source("qwen3", QWEN3[name])
    starts = gate_starts(model, form, 0.3)
    stored = reloaded(gated.build(model, starts), tmp_path)
    assert_agree(stored, with_gates(model, starts), model, monkeypatch)
    assert_writes_the_same(stored, with_gates(model, starts))


@pytest.mark.parametrize(("dtype", "spacing"), [(torch.float32, 2**-24), (torch.bfloat16, 2**-8)])
def test_norms_stored_less_one_are_exact_from_a_half_up_and_off_by_half_a_spacing_below(dtype, spacing):
    model = source("qwen3", QWEN3["plain"], dtype)
    weight = model.model.norm.weight
    with torch.no_grad():
        weight.copy_(torch.linspace(0.01, 4.0, len(weight)))
    stored = gated.build(model, gate_starts(model, "elementwise", 0.3)).model.norm.weight
    error = (1 + stored.double() - weight.double()).abs()
    assert error[weight >= 0.5].max() == 0
    assert 0 < error.max() <= spacing / 2


@pytest.mark.parametrize("form", ["sinks", *HEADWISE, "elementwise"])
def test_bfloat16_errs_at_most_twice_as_much_as_the_source_does(form, tmp_path):
    kind, settings = ("llama", {}) if form == "sinks" else ("qwen3", QWEN3["plain"])
    model = reloaded(source(kind, settings, torch.bfloat16), tmp_path / "source", torch.bfloat16)
    if form == "sinks":
        starts = [{"logit": start["logit"].bfloat16()} for start in drawn(logit=((HEADS,), 3.0))]
        build, reference = granite_swa.build, by_hand
    else:
        starts = [{name: x.bfloat16() for name, x in start.items()} for start in gate_starts(model, form, 0.3)]
        build, reference = gated.build, lambda model, starts, windows: with_gates(model, starts)
    stored = reloaded(build(model, starts), tmp_path / "stored", torch.bfloat16)
    assert {parameter.dtype for parameter in stored.parameters()} == {torch.bfloat16}
    exact, plain = (reference(m, starts, (None, None))(*text()) for m in (copy.deepcopy(model).float(), model))
    real = text()[1] == 1
    ours, theirs = ((run - exact)[real].square().mean().sqrt() for run in (logits(stored, *text()), plain))
    assert ours <= 2 * theirs


@pytest.mark.parametrize("tied", [True, False])
def test_no_weight_is_copied_but_those_that_change(tied):
    model = source("qwen3", QWEN3["plain"] | dict(tie_word_embeddings=tied), torch.float16)
    llama = source("llama", dict(tie_word_embeddings=tied), torch.float16)
    model.generation_config.temperature = llama.generation_config.temperature = 0.37
    built = {
        "sinks": granite_swa.build(llama, drawn(logit=((HEADS,), 3.0), bias=((HEADS, 8), 1.0))),
        "bias": biased.build(llama, drawn(bias=((HEADS, 8), 1.0))),
        "headwise": gated.build(model, gate_starts(model, "headwise", 0.3)),
        "elementwise": gated.build(model, gate_starts(model, "elementwise", 0.3)),
    }
    # A layer: o_proj and the gate; elementwise: q_proj with its gates, o_proj, four norms. Then the norm at the end.
    fresh = {"sinks": 2 * 5, "bias": 2 * 4, "headwise": 2 * 2, "elementwise": 2 * 6 + 1}
    for form, stored in built.items():
        held = {p.data_ptr() for p in (llama if form in ("sinks", "bias") else model).parameters()}
        assert sum(p.data_ptr() not in held for p in stored.parameters()) == fresh[form]
        assert {p.dtype for p in stored.parameters()} == {torch.float16}
        assert (stored.lm_head.weight is stored.model.embed_tokens.weight) is tied
        assert stored.config.tie_word_embeddings is tied
        assert stored.generation_config.temperature == 0.37


QUANTIZED = dict(quantization_config={"quant_method": "fp8"})
GATED_FAMILY = dict(attention_bias=True, head_dim=16, num_experts=4, **DELTA)
LACKS = {
    "experts": (granite_swa.lacks, "mixtral", {}, "it has experts"),
    "norms of queries": (granite_swa.lacks, "qwen3", {}, "it normalises queries and keys"),
    "soft caps": (granite_swa.lacks, "gemma2", {}, "it caps scores or logits"),
    "partial rotation": (granite_swa.lacks, "gpt_neox", dict(rotary_pct=0.25), "it rotates only a part of each head"),
    "activation": (granite_swa.lacks, "llama", dict(hidden_act="gelu"), "its activation is gelu, not SiLU"),
    "unknown": (granite_swa.lacks, "phi3", {}, "phi3 is not known to compute what Llama does"),
    "quantized": (granite_swa.lacks, "llama", QUANTIZED, "its weights are quantized"),
    "no bias": (biased.lacks, "glm", {}, "its output projection has no bias"),
    "no projection": (biased.lacks, "gpt2", {}, "its attention has no output projection of a known name"),
    "gate between": (biased.lacks, "qwen3_next", GATED_FAMILY, "a gate stands between"),
    "bias quantized": (biased.lacks, "qwen3", QUANTIZED, "its weights are quantized"),
    "gate a head": (gated.lacks_headwise, "llama", {}, "stock classes with an output gate"),
    "gate, activation": (gated.lacks_headwise, "qwen3", dict(hidden_act="gelu"), "its activation is gelu"),
    "gate an element": (gated.lacks_elementwise, "gemma2", {}, "stock classes with an output gate"),
    "gate, windows": (gated.lacks_elementwise, "qwen3", WINDOWED, "qwen3_5_text has no sliding window"),
    "gates quantized": (gated.lacks_elementwise, "qwen3", QUANTIZED, "its weights are quantized"),
}  # fmt: skip


@pytest.mark.parametrize("case", LACKS)
def test_what_a_form_lacks_is_named(case):
    lacks, model_type, settings, reason = LACKS[case]
    small = dict(num_hidden_layers=2) if model_type != "qwen3_next" else dict(num_hidden_layers=4)
    assert lacks(AutoConfig.for_model(model_type, **small, **settings)).startswith(reason)


@pytest.mark.parametrize("model_type", ["smollm3", "phi3", "glm", "granite", "gpt_oss", "mistral"])
def test_what_the_model_type_alone_refuses_the_config_refuses_too(model_type):
    config = AutoConfig.for_model(model_type, num_hidden_layers=2)
    has_bias = any(map(OUTPUT_BIAS.search, biased.empty(config).state_dict()))
    told = [kind for kind, sink in SINKS.items() if unstorable_for(sink(), model_type, has_bias) is not None]
    for kind in told:
        with pytest.raises(ModelError, match=f"(cannot be given {kind}|score_bias needs it kept)"):
            form_for(SINKS[kind](), config)
    assert ("kv_bias" in told) == ("gate" in told) == (model_type != "mistral")
    assert ("value_bias" in told) == (model_type in ("smollm3", "phi3", "glm"))
    assert ("sink_logit" in told) == (model_type not in ("granite", "mistral", "gpt_oss"))


def test_a_bias_needs_code_that_is_part_of_transformers():
    config = type("OwnConfig", (type(AutoConfig.for_model("llama")),), {"model_type": "own"})()
    assert biased.lacks(config) == "its code is not part of transformers"


def test_classes_that_this_transformers_lacks_are_named(monkeypatch):
    config = AutoConfig.for_model("qwen3")
    for lacks, needed in (
        (granite_swa.lacks, "granite_swa"),
        (gated.lacks_headwise, "lfm3"),
        (gated.lacks_elementwise, "qwen3_5_text"),
    ):
        monkeypatch.delitem(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, needed)
        assert lacks(config) == f"needs transformers with {needed}"


def test_nothing_is_lacking_where_the_other_tests_store():
    assert {granite_swa.lacks(source(*DENSE[name][:2]).config) for name in DENSE} == {None}
    assert {biased.lacks(source(*WITH_BIAS[name][:2]).config) for name in WITH_BIAS} == {None}
    for name, form in GATED:
        lacks = gated.lacks_headwise if form == "headwise" else gated.lacks_elementwise
        assert lacks(source("qwen3", QWEN3[name]).config) is None
