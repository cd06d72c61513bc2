"""The reference of column_sums against closed forms, and every implementation against the reference."""

import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkctl.kernels import present
from sinkctl.kernels.column_sums import IMPLEMENTATIONS, AttentionSums, Visible, column_sums, select, tiled

# H, G, T, window, D, E
SHAPES = [
    (4, 2, 200, None, 16, 16),
    (3, 1, 300, 70, 16, 8),
    (2, 2, 130, 5, 24, 16),
    (2, 1, 129, 0, 16, 16),
    (4, 2, 150, 140, 16, 16),
    (2, 2, 1, 1, 16, 16),
]
WIDE = [(4, 2, 200, None, 128, 128), (2, 1, 150, 70, 128, 96), (2, 2, 70, 9, 80, 80)]  # by descriptors on Hopper
LONG = [(8, 2, 1500, None, 128, 128), (4, 4, 1000, 300, 64, 64), (4, 1, 700, None, 256, 256), (4, 4, 900, 500, 80, 64)]
# What bends the scores: sink logit, softcap, ALiBi.
BENDS = {
    "plain": lambda H: {},
    "sink_logit": lambda H: dict(sink_logit_H=torch.linspace(-1, 2, H)),
    "softcap_alibi": lambda H: dict(
        sink_logit_H=torch.linspace(-1, 2, H), softcap=1.5, slope_H=0.5 ** torch.arange(1, H + 1)
    ),
}


def inputs(shape, dtype, B=1, device="cpu"):
    H, G, T, _, D, E = shape
    draw = torch.Generator().manual_seed(0)
    sizes = ((B, H, T, D), (B, G, T, D), (B, G, T, E))
    return [torch.randn(size, generator=draw, dtype=torch.float64).to(device, dtype) for size in sizes]


def equal_scores(T):
    """Every key scores 0, and key k has the value k."""
    zeros = torch.zeros(1, 1, T, 4, dtype=torch.float64)
    return zeros, zeros, torch.arange(T, dtype=torch.float64).view(1, 1, T, 1)


def by_softmax(q_TD, k_SD, v_SE, scale, visible):
    """One head, from the map itself: output, log-sum-exp, entropy, distance, received."""
    T = len(q_TD)
    hidden = torch.tensor([
        [
            (visible.causal and k > t) or (visible.window is not None and abs(t - k) > visible.window)
            for k in range(T)
        ]
        for t in range(T)
    ])  # fmt: skip
    score_TS = (q_TD @ k_SD.T * scale).masked_fill(hidden, -torch.inf)
    a_TS = score_TS.softmax(-1)
    distance_TS = torch.tensor([[abs(t - k) for k in range(T)] for t in range(T)])
    return AttentionSums(
        a_TS @ v_SE, score_TS.logsumexp(-1), torch.special.entr(a_TS).sum(-1), (a_TS * distance_TS).sum(-1), a_TS.sum(0)
    )


def assert_equal(found, expected, atol):
    for name, a, b in zip(AttentionSums._fields, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def errors(found, truth):
    """Of each sum, relative to its norm, or to 1 an element where that is more: a logarithm may be near 0."""
    return [
        ((a.double() - b).norm() / max(b.norm().item(), b.numel() ** 0.5)).item()
        for a, b in zip(found, truth, strict=True)
    ]


def test_equal_scores_make_harmonic_columns():
    """Query t of 1…T gives 1/t to each of t keys: key k receives 1/k + … + 1/T."""
    T = 12
    found = column_sums(*equal_scores(T), scale=1.0, visible=Visible())
    for t in range(1, T + 1):
        assert found.out_BHTE[0, 0, t - 1, 0] == pytest.approx((t - 1) / 2)
        assert found.lse_BHT[0, 0, t - 1] == pytest.approx(math.log(t))
        assert found.entropy_BHT[0, 0, t - 1] == pytest.approx(math.log(t))
        assert found.distance_BHT[0, 0, t - 1] == pytest.approx((t - 1) / 2)
        assert found.received_BHS[0, 0, t - 1] == pytest.approx(sum(1 / n for n in range(t, T + 1)))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [0, 3, None])
def test_equal_scores_in_a_window(causal, window):
    T = 12
    found = column_sums(*equal_scores(T), scale=1.0, visible=Visible(causal, window))
    reach = T if window is None else window
    seen = [[k for k in range(T) if abs(t - k) <= reach and (k <= t or not causal)] for t in range(T)]
    for t in range(T):
        assert found.out_BHTE[0, 0, t, 0] == pytest.approx(sum(seen[t]) / len(seen[t]))
        assert found.entropy_BHT[0, 0, t] == pytest.approx(math.log(len(seen[t])))
        assert found.distance_BHT[0, 0, t] == pytest.approx(sum(abs(t - k) for k in seen[t]) / len(seen[t]))
        assert found.received_BHS[0, 0, t] == pytest.approx(sum(1 / len(seen[i]) for i in range(T) if t in seen[i]))


def test_a_sink_logit_of_ln_5_weighs_as_much_as_five_keys_that_score_0():
    found = column_sums(*equal_scores(9), scale=1.0, visible=Visible(), sink_logit_H=torch.tensor([5.0]).log())
    for t in range(1, 10):
        sink = 5 / (t + 5)
        assert found.lse_BHT[0, 0, t - 1] == pytest.approx(math.log(t + 5))
        assert found.out_BHTE[0, 0, t - 1, 0] == pytest.approx((t - 1) / 2 * (1 - sink))
        assert found.distance_BHT[0, 0, t - 1] == pytest.approx((t - 1) / 2 * (1 - sink))
        assert found.entropy_BHT[0, 0, t - 1] == pytest.approx(math.log(t + 5) - sink * math.log(5))


def test_a_sink_logit_is_a_first_key_without_value():
    (q, k, v), scale, logit = inputs((2, 1, 40, None, 16, 16), torch.float64), 0.3, torch.tensor([1.5, 1.5])
    q[..., 0], k[..., 0] = 1 / scale, 0  # so that a key (s, 0, 0, …) scores s
    first = torch.zeros(1, 1, 1, 16, dtype=torch.float64)
    first[..., 0] = logit[0]
    sink = column_sums(q, k, v, scale=scale, visible=Visible(), sink_logit_H=logit)
    key = column_sums(
        torch.cat([q[:, :, :1], q], 2), torch.cat([first, k], 2), torch.cat([0 * first, v], 2),
        scale=scale, visible=Visible(),
    )  # fmt: skip
    for name in ("out_BHTE", "lse_BHT", "entropy_BHT"):
        torch.testing.assert_close(getattr(sink, name), getattr(key, name)[:, :, 1:], rtol=0, atol=1e-13)
    torch.testing.assert_close(sink.received_BHS, key.received_BHS[:, :, 1:], rtol=0, atol=1e-13)
    mass_BHT = (logit[:, None] - sink.lse_BHT).exp()
    torch.testing.assert_close(1 + mass_BHT.sum(-1), key.received_BHS[:, :, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(
        sink.distance_BHT + mass_BHT * torch.arange(1, 41), key.distance_BHT[:, :, 1:], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", ["reference", "tiled"])
def test_a_sink_logit_that_grows_as_the_keys_seen_takes_half_of_every_query(name):
    """Query t of 1…T sees t keys that score 0, and a sink of score ln t."""
    T = 12
    logit_BHT = torch.arange(1, T + 1, dtype=torch.float64).log()[None, None]
    found = IMPLEMENTATIONS[name](*equal_scores(T), scale=1.0, visible=Visible(), sink_logit_H=logit_BHT)
    for t in range(1, T + 1):
        assert found.lse_BHT[0, 0, t - 1] == pytest.approx(math.log(2 * t))
        assert found.out_BHTE[0, 0, t - 1, 0] == pytest.approx((t - 1) / 4)
        assert found.distance_BHT[0, 0, t - 1] == pytest.approx((t - 1) / 4)
        assert found.entropy_BHT[0, 0, t - 1] == pytest.approx(math.log(2 * t) - math.log(t) / 2)
        assert found.received_BHS[0, 0, t - 1] == pytest.approx(sum(1 / (2 * n) for n in range(t, T + 1)))


def test_sigmoid_weights_of_a_half_each_when_all_scores_are_0():
    T = 300
    found = IMPLEMENTATIONS["weighed"](
        *equal_scores(T), scale=1.0, visible=Visible(), weigh=lambda score, seen: score.sigmoid()
    )
    t_T = torch.arange(1, T + 1, dtype=torch.float64)
    expected = (t_T * (t_T - 1) / 4, (t_T / 2).log(), t_T / 2 * math.log(2), t_T * (t_T - 1) / 4, (T + 1 - t_T) / 2)
    assert_equal([found.out_BHTE[0, 0, :, 0], *(x[0, 0] for x in found[1:])], expected, 1e-9)


def test_alibi_is_a_geometric_series_when_all_scores_are_equal():
    """With slope ln 2 each key weighs half of the next one: A at distance d is 2^−d / (2 − 2^−t)."""
    T = 9
    found = column_sums(*equal_scores(T), scale=1.0, visible=Visible(), slope_H=torch.tensor([2.0]).double().log())
    a = [[0.5 ** (t - k) / (2 - 0.5**t) if k <= t else 0.0 for k in range(T)] for t in range(T)]
    for t in range(T):
        assert found.lse_BHT[0, 0, t] == pytest.approx(math.log(2 - 0.5**t))
        assert found.distance_BHT[0, 0, t] == pytest.approx(sum(x * (t - k) for k, x in enumerate(a[t])))
        assert found.entropy_BHT[0, 0, t] == pytest.approx(-sum(x * math.log(x) for x in a[t] if x))
        assert found.received_BHS[0, 0, t] == pytest.approx(sum(row[t] for row in a))


@pytest.mark.parametrize("name", ["reference", "tiled"])
@pytest.mark.parametrize("visible", [Visible(), Visible(window=4), Visible(causal=False), Visible(False, 4)])
def test_padded_and_packed_rows_equal_each_text_alone(name, visible):
    T, scale = 24, 0.4
    q, k, v = inputs((2, 1, T, None, 8, 8), torch.float64, B=3)
    texts = [(0, 9, 24), (1, 0, 15), (2, 2, 12), (2, 12, 21)]  # row, start, end: left-padded, right-padded, packed
    segment_BT = torch.zeros(3, T, dtype=torch.long)
    for n, (b, start, end) in enumerate(texts):
        segment_BT[b, start:end] = n + 1
    seen = Visible(visible.causal, visible.window, segment_BT)
    found = IMPLEMENTATIONS[name](q, k, v, scale=scale, visible=seen)
    for b, start, end in texts:
        for h in range(2):
            alone = by_softmax(q[b, h, start:end], k[b, 0, start:end], v[b, 0, start:end], scale, visible)
            assert_equal([x[b, h, start:end] for x in found], alone, 1e-12)
    padding = segment_BT == 0
    for x in (found.out_BHTE, found.entropy_BHT, found.distance_BHT, found.received_BHS):
        assert not x.movedim(1, 2)[padding].any()
    assert (found.lse_BHT.movedim(1, 2)[padding] == -torch.inf).all()


@pytest.mark.parametrize("most", [1 << 10, 1 << 16, 1 << 20])
@pytest.mark.parametrize("bend", BENDS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
@pytest.mark.parametrize("shape", SHAPES)
def test_tiled_equals_the_reference_in_float64(shape, causal, bend, most, monkeypatch):
    """With tiles of any size, so that query heads, rows of a batch and queries are split."""
    monkeypatch.setitem(tiled.MOST, "cpu", most)
    H, _, T, window, *_ = shape
    arguments = inputs(shape, torch.float64, B=2)
    segment_BT = torch.ones(2, T, dtype=torch.long)
    segment_BT[0, : T // 3], segment_BT[1, T // 2 :] = 0, 2
    also = {None: None, "blocks": lambda t, k: t // 64 == k // 64, "not the own": lambda t, k: t != k}
    bends = BENDS[bend](H)
    if bend == "softcap_alibi":
        bends["sink_logit_H"] = torch.linspace(-1, 2, 2 * H * T, dtype=torch.float64).view(2, H, T)
    for allowed in also.values():
        for segments in (None, segment_BT):
            options = dict(scale=0.25, visible=Visible(causal, window, segments, allowed), **bends)
            assert_equal(tiled.tiled(*arguments, **options), column_sums(*arguments, **options), 1e-12)


@pytest.mark.parametrize("bend", BENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_selected_implementation_is_as_close_to_float64_as_the_reference(shape, dtype, bend):
    arguments, visible = inputs(shape, dtype), Visible(window=shape[3])
    options = dict(scale=shape[4] ** -0.5, visible=visible, **BENDS[bend](shape[0]))
    implementation, reason = select(arguments[0], arguments[2], visible)
    assert reason
    truth = column_sums(*(x.double() for x in arguments), **options)
    found, allowed = (errors(run(*arguments, **options), truth) for run in (implementation, column_sums))
    assert all(a <= 2 * b + 1e-7 for a, b in zip(found, allowed, strict=True)), (found, allowed)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 40), st.booleans(), st.none() | st.integers(0, 45), st.lists(st.integers(0, 3), min_size=40),
    st.none() | st.floats(-5, 5),
)  # fmt: skip
def test_keys_receive_what_queries_give_and_sinks_do_not_take(T, causal, window, segments, logit):
    q, k, v = inputs((2, 1, T, None, 8, 8), torch.float64)
    segment_BT = torch.tensor(segments[:T])[None]
    options = {} if logit is None else dict(sink_logit_H=torch.full((2,), logit, dtype=torch.float64))
    found = tiled.tiled(q, k, v, scale=1.0, visible=Visible(causal, window, segment_BT), **options)
    seeing_BHT = (segment_BT != 0)[:, None].expand(1, 2, T)
    taken_BHT = torch.zeros(1, 2, T) if logit is None else (logit - found.lse_BHT).exp()
    given_BH = torch.where(seeing_BHT, 1 - taken_BHT, 0).sum(-1)
    torch.testing.assert_close(found.received_BHS.sum(-1), given_BH.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("queries", "keys"), [(5, 300), (300, 5), (140, 270)])
def test_queries_that_see_other_keys_are_what_a_softmax_over_those_is(queries, keys):
    """Cross-attention: as many keys as there are, two query heads a key/value head."""
    q, k, v = inputs((4, 2, max(queries, keys), None, 16, 8), torch.float64, B=2)
    q, k, v = q[:, :, :queries], k[:, :, :keys], v[:, :, :keys]
    a = (0.3 * q @ k.repeat_interleave(2, 1).mT).softmax(-1)
    expected = a @ v.repeat_interleave(2, 1), torch.special.entr(a).sum(-1), a.sum(2)
    for name in ("reference", "tiled"):
        found = IMPLEMENTATIONS[name](q, k, v, scale=0.3, visible=Visible(causal=False))
        for x, y in zip((found.out_BHTE, found.entropy_BHT, found.received_BHS), expected, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")
@pytest.mark.parametrize("bend", BENDS)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-6), (torch.float16, 2e-3)])
@pytest.mark.parametrize(("shape", "hopper"), [*((shape, False) for shape in SHAPES), *((x, True) for x in WIDE)])
def test_the_triton_kernels_interpreted_equal_the_reference(shape, hopper, dtype, atol, bend, monkeypatch):
    monkeypatch.setattr(present, "hopper", lambda x: hopper)
    arguments = inputs(shape, dtype)
    options = dict(scale=shape[4] ** -0.5, visible=Visible(window=shape[3]), **BENDS[bend](shape[0]))
    found, expected = (IMPLEMENTATIONS[name](*arguments, **options) for name in ("triton", "reference"))
    torch.testing.assert_close(found.out_BHTE, expected.out_BHTE, rtol=0, atol=atol)
    for a, b in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=5e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bend", BENDS)
@pytest.mark.parametrize("name", ["triton", "tiled"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [*LONG, *SHAPES])
def test_on_a_gpu_outputs_err_twice_as_much_as_plain_torch_at_most_and_sums_are_float32(shape, dtype, name, bend):
    arguments = inputs(shape, dtype, B=2, device="cuda")
    bends = {key: x.cuda() if isinstance(x, torch.Tensor) else x for key, x in BENDS[bend](shape[0]).items()}
    options = dict(scale=shape[4] ** -0.5, visible=Visible(window=shape[3]), **bends)
    truth = column_sums(*(x.double() for x in arguments), **options)
    found, plain = (errors(IMPLEMENTATIONS[i](*arguments, **options), truth) for i in (name, "reference"))
    assert found[0] <= 2 * plain[0]
    assert max(found[1:]) <= 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_runs_on_a_gpu_are_equal_and_what_no_kernel_does_runs_tiled():
    arguments = inputs((8, 2, 3000, None, 128, 128), torch.bfloat16, device="cuda")
    implementation, _ = select(arguments[0], arguments[2], Visible())
    assert implementation.name == "triton"
    first, second = (implementation(*arguments, scale=0.1, visible=Visible()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    segment_BT = torch.ones(1, 3000, dtype=torch.long, device="cuda")
    for visible in (Visible(causal=False), Visible(segment_BT=segment_BT), Visible(also=lambda t, k: t != k)):
        assert select(arguments[0], arguments[2], visible)[0].name == "tiled"
    assert select(arguments[0], arguments[2], Visible(), torch.zeros(1, 8, 3000, device="cuda"))[0].name == "tiled"
