"""decode_attention against attention over the true tokens, from the first token to far past the filling of the ring."""

import itertools
import os

import pytest
import torch

from sinkctl.kernels.decode_attention import IMPLEMENTATIONS, Ring, Turn, decode_attention, select

# H, G, S, W, D, E, rotated pairs, first rotated dimension, interleaved
SHAPES = [
    (4, 2, 3, 5, 8, 8, 4, 0, False),
    (2, 2, 0, 6, 8, 4, 2, 0, True),
    (6, 1, 1, 1, 8, 8, 2, 4, False),
    (4, 4, 4, 70, 8, 8, 0, 0, False),
]
LONG = [
    (8, 2, 4, 300, 64, 64, 32, 0, False),
    (4, 4, 4, 1020, 128, 128, 64, 0, False),
    (8, 1, 4, 300, 128, 128, 64, 0, False),
    (4, 2, 4, 300, 256, 256, 128, 0, False),
]
START = (0, 5, 2)  # the rows of a batch are at different places of their streams
COUNT = 24


def tokens(shape, count, seed=0):
    """q, k and v of every row's tokens: [B, count, heads, width]."""
    H, G, _, _, D, E, *_ = shape
    draw = torch.Generator().manual_seed(seed)
    sizes = ((H, D), (G, D), (G, E))
    return [torch.randn(len(START), count, *size, generator=draw, dtype=torch.float64) for size in sizes]


def frequencies(pairs):
    return 0.7 ** torch.arange(pairs).double()


def empty_ring(shape, dtype, device="cpu") -> Ring:
    _, G, S, W, D, E, *_ = shape
    sizes = ((W + 1, D), (W + 1, E), (S, D), (S, E))
    return Ring(*(torch.zeros(len(START), G, *size, dtype=dtype, device=device) for size in sizes))


def turn_at(shape, t_B, dtype) -> Turn | None:
    _, _, S, W, _, _, pairs, start, interleaved = shape
    if not pairs:
        return None
    place = (t_B - (S + W)).double()
    angles = [x[:, None] * frequencies(pairs).to(t_B.device) for x in (place, place.clamp(max=0))]
    wide = torch.promote_types(dtype, torch.float32)
    return Turn(*(f(a).to(wide) for a in angles for f in (torch.cos, torch.sin)), start, interleaved)


def run(attend, shape, dtype, device="cpu", count=COUNT, promise=False, **options):
    """[B, steps, H, E]: rows first go to where they start one by one, then all of them in step."""
    ring, outs = empty_ring(shape, dtype, device), []
    qkv = [x.to(device, dtype) for x in tokens(shape, max(START) + count)]

    def step(rows, t_B):
        here = [torch.stack([x[b, t] for b, t in zip(rows, t_B.tolist(), strict=True)]) for x in qkv]
        part = Ring(*(x[rows[0] : rows[-1] + 1] for x in ring))
        full = promise and min(t_B.tolist()) > shape[2] + shape[3]
        return attend(*here, part, t_B, turn=turn_at(shape, t_B, dtype), scale=0.3, full=full, **options)

    for b, start in enumerate(START):
        for t in range(start):
            step([b], torch.tensor([t], device=device))
    for i in range(count):
        outs.append(step(list(range(len(START))), torch.tensor(START, device=device) + i))
    return torch.stack(outs, 1)


def plain(shape, count=COUNT, sink_logit_H=None, softcap=None, slope_H=None):
    """By the definition: a row's tokens one by one, complex rotation at places in the cache, one softmax."""
    H, G, S, W, _, E, pairs, start, interleaved = shape
    dims = torch.arange(start, start + 2 * pairs)
    first, second = (dims[::2], dims[1::2]) if interleaved else (dims[:pairs], dims[pairs:])
    q, k, v = tokens(shape, max(START) + count)

    def at(x, place):
        y = x.clone()
        z = torch.complex(x[first], x[second]) * torch.exp(1j * place * frequencies(pairs))
        y[first], y[second] = z.real, z.imag
        return y

    out = torch.zeros(len(START), count, H, E, dtype=torch.float64)
    for b, h, i in itertools.product(range(len(START)), range(H), range(count)):
        g, t = h // (H // G), START[b] + i
        place, scores, values = min(t, S + W), [], []
        for j in (j for j in range(t + 1) if j < S or j >= t - W):
            own = j if j < S else place - (t - j)
            s = 0.3 * at(q[b, t, h], place) @ at(k[b, j, g], own)
            s = softcap * torch.tanh(s / softcap) if softcap else s
            scores.append(s - (slope_H[h] * (place - own) if slope_H is not None else 0))
            values.append(v[b, j, g])
        if sink_logit_H is not None:
            scores.append(sink_logit_H[h])
            values.append(torch.zeros(E, dtype=torch.float64))
        out[b, i, h] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return out


def options_for(shape, device="cpu"):
    heads = torch.arange(shape[0], dtype=torch.float64, device=device)
    return {"plain": {}, "sink logit": dict(sink_logit_H=heads / 3), "softcap": dict(softcap=1.5),
            "slope": dict(slope_H=0.1 + heads / 9)}  # fmt: skip


@pytest.mark.parametrize("option", ["plain", "sink logit", "softcap", "slope"])
@pytest.mark.parametrize("shape", SHAPES)
def test_reference_equals_the_definition(shape, option):
    options = options_for(shape)[option]
    found, expected = run(decode_attention, shape, torch.float64, **options), plain(shape, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    found = run(decode_attention, shape, torch.float64, promise=True, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device or TRITON_INTERPRET=1")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("option", ["plain", "sink logit", "softcap", "slope"])
@pytest.mark.parametrize("shape", [*SHAPES, *LONG])
def test_triton_is_as_close_to_float64_as_plain_torch(shape, option, dtype):
    if INTERPRETED and (dtype == torch.bfloat16 or shape[3] > 100):
        pytest.skip("the interpreter is wrong in bfloat16, and slow")
    device = "cpu" if INTERPRETED else "cuda"
    options = options_for(shape, device)[option]
    count = COUNT if shape[3] < 100 else shape[3] + 50
    truth, by_torch, by_triton = (
        run(attend, shape, kind, device, count, **options).double()
        for attend, kind in ((decode_attention, torch.float64), (decode_attention, dtype),
                             (IMPLEMENTATIONS["triton"], dtype))
    )  # fmt: skip
    assert (by_triton - truth).norm() <= 2 * (by_torch - truth).norm() + 1e-6 * truth.norm()


def test_the_choice_has_a_reason():
    implementation, reason = select(empty_ring(SHAPES[0], torch.float32), 8)
    assert implementation.name == "reference"
    assert "cpu" in reason
