"""What every mechanism must do; parametrized over the union."""

from typing import get_args

import pytest
import torch
from designed import GATES, designed
from pydantic import TypeAdapter

from sinkctl.metrics.first_token import FirstToken, ScoreRows
from sinkctl.sinks import SINKS, AnySink, LayerShape
from sinkctl.sinks.code.sink_attention import AttentionSink
from sinkctl.sinks.code.sink_model import attention_layers, output_of

SHAPE = LayerShape(heads=4, kv_heads=2, width=8, value_width=8, hidden=24)
N, S = 40, 16
OUTSIDE = ("none", "sink_token")  # no part of a layer


def seen() -> FirstToken:
    """A layer whose heads give the first token 0.1 to 0.6."""
    torch.manual_seed(0)
    score_HnS = torch.randn(4, N, S)
    v_GSE = torch.randn(2, S, 8)
    lse_HN = score_HnS.logsumexp(-1)
    out_HNE = (score_HnS - lse_HN[..., None]).exp() @ v_GSE.repeat_interleave(2, 0)
    first_HN = lse_HN + torch.tensor([-2.0, -1.0, 0.0, 0.5])[:, None] + 0.3 * torch.randn(4, N)
    key_GD, value_GE, x_NC = torch.randn(2, 8), torch.randn(2, 8), torch.randn(N, 24)
    return FirstToken(key_GD, value_GE, 0.0, 0.0, first_HN, lse_HN, out_HNE, x_NC, [ScoreRows(0, score_HnS, v_GSE)])


def every_start():
    """(kind, settings) of every start that a mechanism names."""
    for kind, sink in SINKS.items():
        field = sink.model_fields.get("start")
        for start in get_args(field.annotation) if field is not None else ():
            yield pytest.param(sink(start=start), id=f"{kind}-{start}")
        if field is None:
            yield pytest.param(sink(), id=kind)


STARTS = [*every_start(), pytest.param(SINKS["sigmoid"](start="zero", normalise=True), id="sigmoid-normalised")]


def test_the_union_and_the_table_name_the_same_mechanisms():
    assert set(TypeAdapter(AnySink).json_schema()["discriminator"]["mapping"]) == set(SINKS)


@pytest.mark.parametrize("sink", STARTS)
def test_a_mechanism_survives_json_and_says_what_it_is(sink):
    assert TypeAdapter(AnySink).validate_json(sink.model_dump_json()) == sink
    assert type(sink).__doc__
    assert sink.stored()["kind"] == sink.kind
    assert all(field.description for name, field in type(sink).model_fields.items() if name != "kind")


@pytest.mark.parametrize("sink", [s for s in STARTS if s.values[0].kind not in OUTSIDE])
def test_a_start_is_what_the_layer_holds(sink):
    start = sink.begin(SHAPE, seen() if sink.measured else None)
    layer = AttentionSink(sink.stored() | {"parameters": list(start)}, *SHAPE[:3], SHAPE.hidden)
    layer.load_state_dict(start, strict=True)
    assert all(x.dtype == torch.float32 and x.isfinite().all() for x in start.values())


def outputs(layer: AttentionSink, seen: FirstToken) -> torch.Tensor:
    """What a layer gives the queries of the record, [H, N, E], by its scores and its parameters."""
    rows = seen.rows[0]
    v_HSE = rows.v_GSE.repeat_interleave(2, 0)
    if layer.normalises:
        logit_HN = layer.logit[:, None].expand(4, N)
        a_HNS = torch.cat([rows.score_HnS, logit_HN[..., None]], -1).softmax(-1)[..., :-1]
    else:
        a_HNS = layer.weigh(rows.score_HnS[None], torch.ones(1, 4, N, S, dtype=torch.bool))[0]
    return a_HNS.sum(-1), a_HNS @ v_HSE + layer.bias[:, None]


@pytest.mark.parametrize("kind", ["sink_logit", "sigmoid", "elu", "softpick", "clipped_softmax"])
@torch.no_grad()
def test_a_matched_start_gives_keys_what_they_got_and_leaves_no_constant_error(kind):
    record, sink = seen(), SINKS[kind]()
    start = sink.begin(SHAPE, record)
    layer = AttentionSink(sink.stored() | {"parameters": list(start)}, *SHAPE[:3], SHAPE.hidden)
    layer.load_state_dict(start)
    mass_HN, out_HNE = outputs(layer, record)
    assert torch.allclose(mass_HN.mean(1), 1 - record.mass_HN.mean(1), atol=1e-4)
    assert torch.allclose(out_HNE.mean(1), record.written_HNE().mean(1), atol=1e-4)


@torch.no_grad()
def test_a_normalised_sigmoid_is_one_over_its_sum_also_where_nothing_is_seen_or_all_is_tiny():
    layer = AttentionSink(dict(kind="sigmoid", parameters=["offset"], normalise=True), 1, 1, 8, 24)
    layer.offset.fill_(0.5)
    score_11TS = torch.tensor([[[[0.0, 1.0, -2.0], [3.0, 1.0, 2.0], [-300.0, -299.0, -301.0]]]])
    seen = torch.tensor([[True, True, False], [False, False, False], [True, True, False]])[None, None]
    z_S = (score_11TS[0, 0, 0].double() + 0.5)[:2]
    sigma_S = 1 / (1 + torch.exp(-z_S))
    expected_S = sigma_S / sigma_S.sum()
    weight_TS = layer.weigh(score_11TS, seen)[0, 0].double()
    far_S = torch.tensor([1.0, torch.e], dtype=torch.float64) / (1 + torch.e)  # σ(z) is e^z there
    assert torch.allclose(weight_TS[0], torch.cat([expected_S, torch.zeros(1).double()]), atol=1e-6)
    assert torch.equal(weight_TS[1], torch.zeros(3).double())
    assert torch.allclose(weight_TS[2, :2], far_S, atol=1e-6)


def test_a_normalised_sigmoid_has_no_mass_to_match():
    with pytest.raises(ValueError, match=r"normalise: weights sum to 1 .* take start zero"):
        SINKS["sigmoid"](normalise=True)


@torch.no_grad()
def test_a_matched_gate_keeps_what_the_softmax_kept_where_inputs_tell():
    record = seen()
    weight_CH = torch.randn(24, 4)
    told = FirstToken(**{**vars(record), "lse_HN": record.score_HN + (record.x_NC @ weight_CH * 0.3 + 1).T})
    start = SINKS["gate"](start="match").begin(SHAPE, told)
    gate_HN = torch.sigmoid(told.x_NC @ start["gate.weight"].T + start["gate.bias"]).T
    assert torch.allclose(gate_HN, 1 - told.mass_HN, atol=0.02)


@torch.no_grad()
def test_a_matched_gate_leaves_no_constant_error_and_its_constant_is_not_gated():
    record = seen()
    start = SINKS["gate"](start="match").begin(SHAPE, record)
    gate_HN = torch.sigmoid(record.x_NC @ start["gate.weight"].T + start["gate.bias"]).T
    out_HNE = gate_HN[..., None] * record.out_HNE + start["bias"][:, None]
    assert torch.allclose(out_HNE.mean(1), record.written_HNE().mean(1), atol=1e-5)
    assert set(start) - set(SINKS["gate"](start="match", bias=False).begin(SHAPE, record)) == {"bias"}
    shown, model = [], designed("llama", GATES["output_headwise_constant"])
    first = attention_layers(model)[0]
    output_of(first).register_forward_hook(lambda module, inputs, out: shown.append(inputs[0]))
    model(torch.tensor([[5, 9, 3]]))
    bias_HE = first.sink.bias.clone()
    first.sink.bias.zero_()
    model(torch.tensor([[5, 9, 3]]))
    assert torch.allclose(shown[0] - shown[1], bias_HE.flatten(), atol=1e-5)


def test_a_gate_that_begins_with_a_match_is_one_of_outputs():
    with pytest.raises(ValueError, match="leaves with the output"):
        SINKS["gate"](start="match", place="value")


def test_a_warm_logit_takes_its_share_beside_the_first_token():
    record = seen()
    logit_H = SINKS["sink_logit"](start="warm", share=0.02).begin(SHAPE, record)["logit"]
    whole_H = torch.logaddexp(record.lse_HN, record.score_HN).mean(1)
    assert torch.allclose(torch.sigmoid(logit_H - whole_H), torch.full((4,), 0.02), atol=1e-6)
