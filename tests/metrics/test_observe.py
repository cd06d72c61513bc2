"""What is observed against stock eager maps, closed forms, and other ways of laying samples out."""

import pytest
import torch
from carrier import SINK, carrier, planted, zero_weights
from families import HYBRID, REFUSED, STREAMED, tiny
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from sinkctl.errors import ModelError
from sinkctl.metrics import ATTENTION, BLOCK
from sinkctl.metrics.maps import FROM_MAPS, observe_maps
from sinkctl.metrics.observe import blocks_of, observe
from sinkctl.metrics.samples import laid_out
from sinkctl.metrics.views import Scope

CPU = torch.device("cpu")


class Seen:
    """Keeps every metric of every layer."""

    def __init__(self, scope: Scope = Scope(), names=tuple(ATTENTION)):
        self.scope, self.names = scope, names
        self.attentions, self.blocks, self.chosen = [], [], {}

    def attention(self, layer, view):
        found = {name: ATTENTION[name](view, self.scope) for name in self.names}
        self.attentions.append({"layer": layer} | {k: v for k, v in found.items() if v is not None})

    def block(self, layer, view):
        self.blocks.append({name: metric(view, self.scope) for name, metric in BLOCK.items()} | {"h": view.h_NTC})

    def routed(self, layer, chosen_NTk, experts, real_NT):
        self.chosen[layer] = chosen_NTk, experts


def seen(model, samples, layout="right", **options) -> Seen:
    measurer = Seen(**options)
    observe(model, laid_out(samples, CPU, layout), measurer)
    return measurer


def draws(*lengths: int, words: int = 64) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(3, words, (length,), generator=draw) for length in lengths]


def column_means(maps: torch.Tensor, causal: bool = True) -> torch.Tensor:
    T = maps.shape[-1]
    return maps.sum(2) / (torch.arange(T, 0, -1) if causal else T)


@pytest.mark.parametrize(
    "name", ["llama", "mistral", "qwen3", "gemma2", "gpt_neox", "phi", "glm", "olmo2", "mixtral", "deepseek_v3"]
)
def test_alpha_equals_the_column_means_of_stock_eager_maps_at_256_tokens(name):
    model_type, settings = STREAMED[name]
    longer = {"max_seq_len": 256} if "max_seq_len" in settings else {"max_position_embeddings": 256}
    model = tiny(model_type, settings | longer, torch.float32)
    samples = draws(256, 256)
    found = seen(model, samples, names=("alpha",)).attentions
    model.set_attn_implementation("eager")
    maps = model(torch.stack(samples), output_attentions=True).attentions
    assert len(maps) == len(found)
    for one, other in zip(maps, found, strict=True):
        assert (column_means(one) - other["alpha"]).abs().max() <= 1e-6


def test_with_learned_sinks_alpha_equals_eager_maps_whose_rows_do_not_sum_to_one():
    model = tiny(*STREAMED["gpt_oss"], torch.float32)
    samples = draws(100, 100)
    found = seen(model, samples).attentions
    model.set_attn_implementation("eager")
    maps = model(torch.stack(samples), output_attentions=True).attentions
    for one, other in zip(maps, found, strict=True):
        assert (column_means(one) - other["alpha"]).abs().max() <= 1e-6
        assert (1 - one.sum(-1).mean(-1) - other["learned_mass"]).abs().max() <= 1e-6
        assert other["balance_error"].max() <= 1e-6


def test_real_weights_equal_their_eager_maps(demo, book):
    ids = torch.tensor(demo.tokenizer(book[:4000], add_special_tokens=False).input_ids[:255])
    samples = [torch.cat([torch.tensor([demo.bos_id]), ids])]
    found = seen(demo.model, samples, names=("alpha", "entropy")).attentions
    before = demo.model.config._attn_implementation
    demo.model.set_attn_implementation("eager")
    try:
        maps = demo.model(samples[0][None], output_attentions=True).attentions
    finally:
        demo.model.set_attn_implementation(before)
    for one, other in zip(maps, found, strict=True):
        assert (column_means(one) - other["alpha"]).abs().max() <= 1e-6
        assert (-torch.special.xlogy(one, one).sum(-1).mean(-1) - other["entropy"]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss", "mpt", "gpt_neox", "falcon_alibi", "qwen3_moe"])
def test_padded_and_packed_samples_read_as_they_do_alone(name):
    model, samples = tiny(*STREAMED[name], torch.float64), draws(30, 17, 9)
    alone = [seen(model, [sample]) for sample in samples]
    for layout in ("right", "left", "packed"):
        together = seen(model, samples, layout)
        for n, single in enumerate(alone):
            pairs = zip(single.attentions + single.blocks, together.attentions + together.blocks, strict=True)
            for one, other in pairs:
                for metric in one.keys() - {"layer"}:
                    x, y = one[metric][0], other[metric][n]
                    y = y[tuple(slice(size) for size in x.shape)]
                    assert torch.allclose(x, y, rtol=1e-9, atol=1e-9, equal_nan=True), (layout, metric)


def test_a_hybrid_reads_padded_as_alone():
    model, samples = tiny(*HYBRID["qwen3_next"], torch.float32), draws(30, 17)
    alone, padded = seen(model, samples[1:]), seen(model, samples)
    assert [found["layer"] for found in padded.attentions] == [3]  # of four layers one attends
    assert torch.allclose(alone.attentions[0]["alpha"][0, :, :17], padded.attentions[0]["alpha"][1, :, :17], atol=1e-5)
    assert 0.3 < padded.attentions[0]["gate"].mean() < 0.7  # an untrained sigmoid


def test_planted_sinks_are_read_in_closed_form_with_groups_and_windows():
    s = [[0, 2, 3, 6], [4, 4, 1, 0]]
    for kv_heads, window, model_type in ((1, None, "llama"), (2, None, "llama"), (2, 15, "mistral")):
        settings = {} if window is None else {"sliding_window": window + 1}
        model = carrier(s, model_type, kv_heads, **settings).model
        ids = torch.cat([torch.tensor([SINK]), draws(63)[0]])
        for row, found in zip(s, seen(model, [ids]).attentions, strict=True):
            for head, logit in enumerate(row):
                assert float(found["alpha"][0, head, 0]) == pytest.approx(planted(logit, 64, window=window), abs=1e-6)


def test_learned_sink_logits_take_the_mass_that_theory_says():
    for window, expected in ((None, 0.210367), (16, 0.302490)):  # W counts the query itself here
        kind = "full_attention" if window is None else "sliding_attention"
        model = carrier(
            [[0.0, 0.0]], "granite_swa", layer_types=[kind], sliding_window=window or 16,
            attention_multiplier=HEAD_SCALE,
        ).model  # fmt: skip
        with torch.no_grad():
            model.model.layers[0].self_attn.sinks.copy_(torch.tensor([1.7, 0.0]))
        found = seen(model, draws(64)).attentions[0]
        assert float(found["learned_mass"][0, 0]) == pytest.approx(expected, abs=1e-6)
        if window is None:  # a logit of 0 is softmax1
            assert float(found["learned_mass"][0, 1]) == pytest.approx(0.058739, abs=1e-6)


HEAD_SCALE = 8**-0.5


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta", "modernbert"])
def test_encoders_with_padding_equal_their_eager_maps(model_type):
    names = dict(dim=32, hidden_dim=48, n_heads=4, n_layers=2) if model_type == "distilbert" else {}
    config = AutoConfig.for_model(
        model_type, vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0, local_attention=9, **names,
    )  # fmt: skip
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    samples = draws(40, 23)
    found = seen(model, samples, names=("alpha", "balance_error")).attentions
    for n, sample in enumerate(samples):
        maps = model(sample[None], output_attentions=True).attentions
        for one, other in zip(maps, found, strict=True):
            T = len(sample)
            assert (column_means(one, causal=False)[0] - other["alpha"][n, :, :T]).abs().max() <= 1e-6
            assert other["balance_error"].max() <= 1e-6


def test_models_outside_the_interface_are_read_from_their_own_maps():
    config = AutoConfig.for_model(
        "gpt_neo", vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
        window_size=9, max_position_embeddings=64,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    samples = draws(30, 12)
    measurer = Seen()
    observe(model, laid_out(samples, CPU), measurer)
    assert not measurer.attentions
    measurer.names = FROM_MAPS
    observe_maps(model, laid_out(samples, CPU), measurer)
    model.set_attn_implementation("eager")
    for n, sample in enumerate(samples):
        for one, other in zip(model(sample[None], output_attentions=True).attentions, measurer.attentions, strict=True):
            assert (column_means(one)[0] - other["alpha"][n, :, : len(sample)]).abs().max() <= 1e-6
    with pytest.raises(ModelError, match="1024 tokens"):
        observe_maps(model, laid_out(draws(1025), CPU), measurer)
    flat = Seen(names=FROM_MAPS)
    observe_maps(zero_weights(model), laid_out(samples, CPU), flat)
    for layer in flat.attentions:  # the second has a window
        assert torch.allclose(layer["entropy_share"], torch.ones(()))


def test_blocks_are_seen_before_the_final_norm(demo):
    samples = [torch.arange(5, 40)]
    found = seen(demo.model, samples)
    stock = demo.model.model(samples[0][None], output_hidden_states=True).hidden_states
    for layer, block in enumerate(found.blocks[:-1]):
        assert torch.allclose(block["h"], stock[layer + 1], atol=1e-4)
    last = demo.model.model.norm(found.blocks[-1]["h"])
    assert torch.allclose(last, stock[-1], atol=1e-4)
    assert len(found.blocks) == len(blocks_of(demo.model))


def test_what_heads_write_adds_up_to_what_the_projection_adds(demo):
    """Σ_h W_O^h kept_h is the attention module's output."""
    block, written, projected = demo.model.model.layers[4], [], []

    class Written(Seen):
        def attention(self, layer, view):
            written.append(torch.einsum("nhte,che->ntc", view.kept_NHTE, view.projection_CHE))

    hook = block.self_attn.register_forward_hook(lambda _, __, out: projected.append(out[0]))
    try:
        observe(demo.model, laid_out([torch.arange(5, 40)], CPU), Written())
    finally:
        hook.remove()
    assert torch.allclose(written[4], projected[0], atol=1e-4)


def test_routers_say_which_experts_the_first_token_goes_to():
    model, samples = tiny(*STREAMED["mixtral"], torch.float32), draws(20, 20)
    found = seen(model, samples)
    logits = model(torch.stack(samples), output_router_logits=True).router_logits
    for layer, stock in enumerate(logits):
        chosen, experts = found.chosen[layer]
        assert experts == 4
        assert torch.equal(chosen.sort(-1).values, stock.view(2, 20, 4).topk(2).indices.sort(-1).values)


@pytest.mark.parametrize("name", [*STREAMED, *HYBRID, *(name for name in REFUSED if name != "mamba")])
def test_every_family_is_measured_and_balances(name):
    model_type, settings, *_ = {**STREAMED, **HYBRID, **REFUSED}[name]
    found = seen(
        tiny(model_type, settings, torch.float32), draws(40, 40), names=("alpha", "balance_error", "mass_split")
    )
    assert found.attentions
    for layer in found.attentions:
        assert layer["balance_error"].max() <= 1e-5
        assert torch.allclose(layer["mass_split"].sum(-1), torch.ones(()), atol=1e-5)
        assert (layer["alpha"] > -1e-9).all()


def test_the_output_projection_is_told_from_a_gate_before_it():
    """AFMoE projects its gate from as many channels as heads take, inside the same module."""
    model_type, settings = STREAMED["afmoe"]
    model = tiny(model_type, settings, torch.float32)

    class Projections(Seen):
        def attention(self, layer, view):
            self.attentions.append(view.projection_CHE.flatten(1))

    found = Projections()
    observe(model, laid_out(draws(20), CPU), found)
    for weight, block in zip(found.attentions, blocks_of(model), strict=True):
        assert torch.equal(weight, block.self_attn.o_proj.weight)


def test_differences_of_softmaxes_are_counted_once():
    found = seen(tiny("diffllama", {}, torch.float32), draws(20))
    assert [layer["layer"] for layer in found.attentions] == [0, 1]
    assert not any("gate" in layer or "head_output" in layer for layer in found.attentions)
