"""Every implementation of stream_attention against the reference, and the reference against a closed form."""

import os

import pytest
import torch

from sinkctl.kernels import present
from sinkctl.kernels.present import fa3_runs
from sinkctl.kernels.stream_attention import IMPLEMENTATIONS, Strip, select, stream_attention
from sinkctl.kernels.stream_attention.tiled import matmul_partial, with_lse

# H, G, T, past, W, N, D, E
SHAPES = [
    (3, 1, 300, 252, 252, 4, 16, 16),
    (4, 2, 200, 0, None, 0, 16, 16),
    (2, 2, 140, 300, None, 0, 16, 16),
    (4, 4, 130, 70, 40, 3, 16, 16),
    (2, 1, 50, 10, 5, 1, 16, 16),
    (2, 2, 1, 0, 1, 0, 16, 16),
    (4, 2, 130, 20, 20, 2, 16, 8),
    (6, 2, 150, 200, 180, 4, 64, 64),
]


def inputs(shape, dtype, seed=0, alibi=False):
    H, G, T, past, window, N, D, E = shape
    draw = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(1, *size, generator=draw, dtype=dtype)

    strip = Strip(normal(H, T, D), normal(G, N, D), normal(G, N, E)) if N else None
    arguments = (normal(H, T, D), normal(G, past + T, D), normal(G, past + T, E))
    options = dict(scale=D**-0.5, window=window, strip=strip, sink_logit_H=normal(H)[0])
    if alibi:
        options["slope_H"] = 0.5 ** torch.arange(1, H + 1)
        if N:
            options["strip"] = strip._replace(distance_N=torch.arange(window + N, window, -1))
    return arguments, options


def mapped(options, change):
    """The options with every tensor in them changed."""
    found = {name: change(x) if isinstance(x, torch.Tensor) else x for name, x in options.items()}
    return {**found, "strip": options["strip"] and Strip(*(x if x is None else change(x) for x in options["strip"]))}


def test_reference_is_the_mean_of_visible_values_when_all_scores_are_equal():
    T, window, sinks = 12, 3, 2
    q, k, v = torch.zeros(1, 1, T, 4), torch.zeros(1, 1, T, 4), torch.arange(T, dtype=torch.float).view(1, 1, T, 1)
    strip = Strip(q, torch.zeros(1, 1, sinks, 4), torch.full((1, 1, sinks, 1), 100.0))
    out = stream_attention(
        q, k, v, scale=1.0, window=window, strip=strip, sink_logit_H=torch.tensor([torch.log(torch.tensor(5.0))])
    )
    for t in range(T):
        seen = list(range(max(0, t - window), t + 1))
        assert out[0, 0, t, 0] == pytest.approx((sum(seen) + 100 * sinks) / (len(seen) + sinks + 5), rel=1e-6)


def test_alibi_in_the_reference_is_a_geometric_series_when_all_scores_are_equal():
    """With slope ln 2 each key weighs half of the next one; a strip key weighs what its own distance says."""
    T, window = 9, 3
    q, k, v = torch.zeros(1, 1, T, 4), torch.zeros(1, 1, T, 4), torch.arange(T, dtype=torch.float).view(1, 1, T, 1)
    strip = Strip(q, k[:, :, :2], torch.full((1, 1, 2, 1), 100.0), distance_N=torch.tensor([5, 4]))
    out = stream_attention(q, k, v, scale=1.0, window=window, strip=strip, slope_H=torch.tensor([2.0]).log())
    for t in range(T):
        weights = [(j, 0.5 ** (t - j)) for j in range(max(0, t - window), t + 1)] + [(100, 0.5**5), (100, 0.5**4)]
        assert out[0, 0, t, 0] == pytest.approx(sum(x * w for x, w in weights) / sum(w for _, w in weights), rel=1e-5)


def test_sigmoid_weights_are_half_the_sum_of_visible_values_when_all_scores_are_0():
    T, window, sinks = 300, 140, 2
    q, k, v = torch.zeros(1, 1, T, 4), torch.zeros(1, 1, T, 4), torch.arange(T, dtype=torch.double).view(1, 1, T, 1)
    strip = Strip(q, torch.zeros(1, 1, sinks, 4), torch.full((1, 1, sinks, 1), 100.0, dtype=torch.double))
    out = IMPLEMENTATIONS["weighed"](
        q, k, v, scale=1.0, window=window, strip=strip, weigh=lambda score, seen: score.sigmoid() * seen
    )
    for t in range(T):
        assert out[0, 0, t, 0] == (sum(range(max(0, t - window), t + 1)) + 100 * sinks) / 2


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_weighed_by_a_softmax_equals_the_reference(shape, softcap):
    arguments, options = inputs(shape, torch.float64)
    options |= {"sink_logit_H": None, "softcap": softcap}
    found = IMPLEMENTATIONS["weighed"](
        *arguments, **options, weigh=lambda score, seen: score.masked_fill(~seen, -torch.inf).softmax(-1)
    )
    torch.testing.assert_close(found, stream_attention(*arguments, **options), rtol=0, atol=1e-13)


@pytest.mark.parametrize("alibi", [False, True], ids=["", "alibi"])
@pytest.mark.parametrize("name", [n for n in IMPLEMENTATIONS if n.startswith("tiled")])
@pytest.mark.parametrize("shape", SHAPES)
def test_implementations_equal_the_reference_in_float64(name, shape, alibi):
    if "flash" in name and shape[-1] != shape[-2]:
        pytest.skip("the CPU flash operator takes values as wide as keys")
    arguments, options = inputs(shape, torch.float64, alibi=alibi)
    torch.testing.assert_close(
        IMPLEMENTATIONS[name](*arguments, **options), stream_attention(*arguments, **options), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("alibi", [False, True], ids=["", "alibi"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_selected_implementation_is_as_close_to_float64_as_the_reference(shape, dtype, alibi):
    arguments, options = inputs(shape, dtype, alibi=alibi)
    implementation, reason = select(arguments[0], arguments[2], alibi=alibi)
    assert reason
    truth = stream_attention(*(x.double() for x in arguments), **mapped(options, torch.Tensor.double))
    error, allowed = (
        (run(*arguments, **options) - truth).norm() / truth.norm() for run in (implementation, stream_attention)
    )
    assert error <= 2 * allowed


def test_softcap_equals_the_reference():
    arguments, options = inputs(SHAPES[0], torch.float64)
    implementation, _ = select(arguments[0], arguments[2], softcap=1.5)
    torch.testing.assert_close(
        implementation(*arguments, **options, softcap=1.5),
        stream_attention(*arguments, **options, softcap=1.5), rtol=0, atol=1e-13,
    )  # fmt: skip


@pytest.mark.parametrize("window", [16_000, None])
@pytest.mark.parametrize("name", [n for n in IMPLEMENTATIONS if n.startswith("tiled")])
def test_alibi_keeps_its_digits_far_out(name, window):
    """In float32, where slope·i − slope·j of far positions would have lost them."""
    shape = (2, 1, 150, 16_000, window, 4 if window else 0, 16, 16)
    arguments, options = inputs(shape, torch.float32, alibi=True)
    options["slope_H"] = torch.tensor([1 / 3000, 0.7])
    truth = stream_attention(*(x.double() for x in arguments), **mapped(options, torch.Tensor.double))
    error = (IMPLEMENTATIONS[name](*arguments, **options) - truth).norm() / truth.norm()
    assert error <= 2e-6


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")
@pytest.mark.parametrize("hopper", [False, True], ids=["", "hopper"])
@pytest.mark.parametrize("alibi", [False, True], ids=["", "alibi"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_triton_kernel_interpreted_equals_the_reference_in_float32(shape, alibi, hopper, monkeypatch):
    monkeypatch.setattr(present, "hopper", lambda x: hopper)
    arguments, options = inputs(shape, torch.float32, alibi=alibi)
    for softcap in (None, 1.5):
        torch.testing.assert_close(
            IMPLEMENTATIONS["triton"](*arguments, **options, softcap=softcap),
            stream_attention(*arguments, **options, softcap=softcap), rtol=0, atol=2e-6,
        )  # fmt: skip


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")
@pytest.mark.parametrize("logit", [False, True])
@pytest.mark.parametrize("shape", [x for x in SHAPES if x[5]] + [(2, 1, 70, 9, 9, 100, 24, 24)])
def test_strip_and_sink_logit_folded_into_a_band_equal_the_reference_in_float32(shape, logit):
    from sinkctl.kernels.stream_attention.fa3 import fold

    (q, k, v), options = inputs(shape, torch.float32)
    strip, drawn_H, scale = options.pop("strip"), options.pop("sink_logit_H"), options["scale"]
    sink_logit_H = drawn_H if logit else None
    out_BHTE, lse_BHT = with_lse(matmul_partial, q, k, v, **options)
    out_BTHE = out_BHTE.transpose(1, 2).contiguous()
    fold(out_BTHE, lse_BHT, strip, sink_logit_H, kv_heads=shape[1], scale=scale)
    truth = stream_attention(q, k, v, **options, strip=strip, sink_logit_H=sink_logit_H)
    torch.testing.assert_close(out_BTHE.transpose(1, 2), truth, rtol=0, atol=2e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("alibi", [False, True], ids=["", "alibi"])
@pytest.mark.parametrize("name", ["triton", "cuda_flash", "fa3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(8, 2, 700, 300, 300, 4, 128, 128), (4, 4, 1000, 0, None, 0, 64, 64), *SHAPES])
def test_gpu_kernels_err_no_more_than_twice_plain_torch_at_that_precision(name, dtype, shape, alibi):
    if name != "triton" and (shape[-1] != shape[-2] or alibi):
        pytest.skip("flash operators take values as wide as keys, and no ALiBi")
    if name == "fa3" and not fa3_runs()[0]:
        pytest.skip(fa3_runs()[1])
    arguments, options = inputs(shape, dtype, alibi=alibi)
    arguments, options = [x.cuda() for x in arguments], mapped(options, torch.Tensor.cuda)
    exact = mapped(options, torch.Tensor.double)
    for softcap in (None, 1.5) if name == "triton" else (None,):
        truth = stream_attention(*(x.double() for x in arguments), **exact, softcap=softcap)
        found, plain = (
            (IMPLEMENTATIONS[i](*arguments, **options, softcap=softcap) - truth).norm() / truth.norm()
            for i in (name, "tiled")
        )
        assert found <= 2 * plain
