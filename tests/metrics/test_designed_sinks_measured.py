"""Designed sinks are measured as the stock model attends with them."""

import pytest
import torch
from designed import ATTENDING, GATES, SCORE_BIAS, SCRATCH, designed
from families import SHAPE
from test_observe import CPU, Seen

from sinkctl.metrics.masked_key import hide
from sinkctl.metrics.next_token import NoInterface, next_token
from sinkctl.metrics.observe import observe
from sinkctl.metrics.samples import laid_out
from sinkctl.metrics.sink_rate import sink_rate
from sinkctl.metrics.views import AttentionView, Scope

SINKS = ATTENDING | GATES | {"score_bias": SCORE_BIAS} | SCRATCH
LENGTHS = (24, 17)
CASES = [("llama", "right"), ("llama", "left"), ("llama", "packed")]
CASES += [(family, "right") for family in ("gemma2", "gpt_neox", "qwen3")]


class Views(Seen):
    """Keeps the views themselves too."""

    def attention(self, layer: int, view: AttentionView) -> None:
        super().attention(layer, view)
        self.attentions[-1]["view"] = view


def samples(lengths=LENGTHS) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(3, SHAPE["vocab_size"], (length,), generator=draw) for length in lengths]


def stock(model, ids: torch.Tensor):
    with torch.no_grad():
        return model(ids[None], output_attentions=True, output_hidden_states=True)


@pytest.mark.parametrize(
    ("kind", "family", "layout"),
    [(k, *case) for k in SINKS for case in CASES if k not in SCRATCH or case[0] == "llama"],
)
def test_maps_outputs_and_alpha_are_those_of_the_stock_eager_model(kind, family, layout):
    model, seen = designed(family, SINKS[kind]), Views(Scope(sinks=3, local=4, tail=5))
    observe(model, laid_out(samples(), CPU, layout), seen)
    for n, ids in enumerate(samples()):
        T, expected = len(ids), stock(model, ids)
        for layer, found in enumerate(seen.attentions):
            map_HTS, view = expected.attentions[layer][0], found["view"]
            parts = slice(0, T), slice(0, T)
            torch.testing.assert_close(view.attention(*parts)[n], map_HTS, rtol=1e-5, atol=2e-6)
            alpha_HT = map_HTS.sum(1) / torch.arange(T, 0, -1)
            torch.testing.assert_close(found["alpha"][n, :, :T], alpha_HT, rtol=1e-5, atol=2e-6)
            distance_TS = torch.arange(T)[:, None] - torch.arange(T)
            distance_H = ((map_HTS * distance_TS).sum(-1) / map_HTS.sum(-1)).nanmean(-1)  # softpick may give nothing
            if (map_HTS >= 0).all():  # of weights with both signs there is no mean
                torch.testing.assert_close(found["mean_distance"][n], distance_H, rtol=1e-4, atol=1e-5)
            near_TS = distance_TS <= 4
            leading_S = torch.arange(T) < 3
            for place, mask in ((0, leading_S), (1, near_TS & ~leading_S)):
                mass_H = (map_HTS * mask).sum((1, 2)) / T
                torch.testing.assert_close(found["mass_split"][n, :, place], mass_H, rtol=1e-4, atol=1e-5)
        for layer, found in enumerate(seen.blocks[:-1]):  # stock norms what comes after the last
            torch.testing.assert_close(found["h"][n, :T], expected.hidden_states[layer + 1][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [*ATTENDING, "score_bias"])
def test_mass_beside_the_keys_is_what_the_rows_lack_where_they_are_a_softmax(kind):
    model, seen = designed("llama", SINKS[kind]), Seen()
    observe(model, laid_out(samples((24,)), CPU), seen)
    maps = stock(model, samples()[0]).attentions
    for found, map_BHTS in zip(seen.attentions, maps, strict=True):
        if kind.startswith(("sink_logit", "key", "kv")):
            missing_NH = 1 - map_BHTS.sum(-1).mean(-1)
            torch.testing.assert_close(found["learned_mass"], missing_NH, rtol=1e-4, atol=1e-5)
            assert missing_NH.min() > 0.01
            assert found["balance_error"].max() < 1e-5
        else:
            assert not {"learned_mass", "balance_error"} & set(found)


def test_a_constant_part_is_no_gate_and_a_gate_is_one():
    for kind, gated in (("sink_logit_bias", False), ("kv_bias_bias", False), ("output_elementwise", True)):
        seen = Seen()
        observe(designed("llama", SINKS[kind]), laid_out(samples(), CPU), seen)
        assert [("gate" in found) for found in seen.attentions] == [gated, gated]


@pytest.mark.parametrize("kind", ["sink_logit_bias", "kv_bias_bias", "softpick", "sigmoid_mixed"])
def test_a_hidden_key_is_one_the_stock_model_does_not_see(kind):
    model, (ids,) = designed("llama", SINKS[kind], torch.float64), samples((24,))
    seen_TT = torch.ones(24, 24).tril().bool()
    seen_TT[1:, 0] = False
    mask = torch.zeros(1, 1, 24, 24, dtype=torch.float64).masked_fill(~seen_TT, torch.finfo(torch.float64).min)
    with torch.no_grad():
        expected = model(ids[None], attention_mask=mask).logits[:, -1]
    found = next_token(model, laid_out([ids], CPU), hide(range(1)))
    torch.testing.assert_close(found.last_NV, expected, rtol=0, atol=1e-6, check_dtype=False)
    assert found.attentions == 2


def test_a_bias_on_the_first_key_would_go_to_the_next_one():
    with pytest.raises(NoInterface, match="score_bias"):
        next_token(designed("llama", SCORE_BIAS), laid_out(samples((24,)), CPU), hide(range(1)))


def test_the_sink_rate_is_that_of_the_stock_maps():
    for kind in ("kv_bias", "sigmoid"):
        model, (ids,) = designed("llama", SINKS[kind]), samples((24,))
        alpha = torch.stack([a[0, :, :, 0].mean(-1) for a in stock(model, ids).attentions])
        assert sink_rate(model, ids[None], 0.1) == float((alpha > 0.1).float().mean())
