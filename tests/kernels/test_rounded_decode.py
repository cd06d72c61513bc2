"""rounded_decode: the kernel against the specification in float64, from the first token to past the turning of slots.

That the specification is the rule itself is tested in tests/cache/precision/test_rounded_ring.py, token by token.
"""

import os

import pytest
import torch
from one_block import emulate

from sinkctl.kernels.rounded_decode import IMPLEMENTATIONS, Angles, Rule, Store, cuda, rounded_decode
from sinkctl.kernels.rounded_decode.quantize import quantize
from sinkctl.kernels.rounded_decode.reference import _take

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
MOST = 300  # tokens
# H query heads, G key/value heads, D width, and the rule
CASES = {
    "grouped, 4 bits": (8, 2, 64, Rule(4, 16, 16, 20, 2, 3, 150)),
    "all heads, 2 bits, sinks over groups": (2, 2, 64, Rule(2, 16, 16, 3, 0, 20, 133)),
    "8 bits, no sinks, groups of 32": (4, 1, 128, Rule(8, 32, 32, 0, 0, 0, 64)),
    "everything, more kept than sinks": (6, 2, 64, Rule(4, 32, 32, 16, 5, 0, None)),
    "4 bits of 128": (14, 2, 128, Rule(4, 32, 32, 20, 2, 3, 290)),
    "4 bits of 128, all": (4, 1, 128, Rule(4, 32, 32, 16, 5, 0, None)),
    "4 bits of 128, sinks over groups": (2, 2, 128, Rule(4, 32, 32, 3, 0, 35, 190)),
    "4 bits of 128, many in full": (6, 2, 128, Rule(4, 32, 32, 128, 64, 4, None)),  # more than come on chip at once
    "4 bits of 128, keys to 2,000, values to 5,000": (4, 2, 128, Rule(4, 32, 32, 4, 0, 4, 180)),
    "4 bits of 128, keys and values to 1/1,000": (4, 2, 128, Rule(4, 32, 32, 4, 0, 4, 180)),
    "4 bits of 128, one key far out": (4, 2, 128, Rule(4, 32, 32, 4, 0, 4, None)),
    "values to 520, 2 bits": (2, 2, 64, Rule(2, 16, 16, 4, 0, 4, 133)),
    "values to 5,000, 2 bits": (4, 2, 64, Rule(2, 32, 32, 4, 0, 4, None)),
    "keys to 329": (2, 2, 64, Rule(2, 16, 16, 4, 0, 4, 133)),
    "keys to 2,000, values to 5,000": (4, 2, 64, Rule(4, 32, 32, 4, 0, 4, 133)),
}
# The greatest of q, k and v, where scales or their products with queries times 512 are past the 65,504 of float16
GREATEST = {
    "4 bits of 128, keys to 2,000, values to 5,000": (32, 2000, 5000),
    "4 bits of 128, keys and values to 1/1,000": (2000, 1e-3, 1e-3),
    "values to 520, 2 bits": (None, None, 520),
    "values to 5,000, 2 bits": (None, None, 5000),
    "keys to 329": (32, 329, None),
    "keys to 2,000, values to 5,000": (32, 2000, 5000),
}
WAYS = [("triton", case) for case in CASES] + [
    ("cuda", case) for case, (H, G, D, rule) in CASES.items() if cuda.covers(rule, (D, D), H // G)
]
SHARP = [case for case, (_, k, _) in GREATEST.items() if k and k > 300]  # scores in hundreds: chance decides a tie
STANDS = (0, 1, 19, 40, 155, 230, 293)  # of the first row; the second is 5 tokens on


def drawn(case, held, dtype):
    """Numbers that `held` has, in dtype."""
    H, G, D, _ = CASES[case]
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, MOST, heads, D, generator=draw, dtype=torch.float64) for heads in (H, G, G))
    k[..., 3] += 10  # a channel that is far out, as keys have
    if case.endswith("one key far out"):
        k[:, 40, :, 20] = -400
    given = zip((q, k, v), GREATEST.get(case, (None,) * 3), strict=True)
    return [(x if most is None else x * (most / x.abs().max())).to(held).to(dtype) for x, most in given]


def angles_of(width: int, rule: Rule, dtype) -> Angles:
    frequency = 0.7 ** torch.arange(width // 2).double()
    coarse, fine = (
        torch.arange(count)[:, None] * step * frequency
        for count, step in ((MOST // rule.together + 3, rule.together), (rule.together, 1))
    )
    wide = torch.promote_types(dtype, torch.float32)
    return Angles(*(f(x).to(wide) for x in (coarse, fine) for f in (torch.cos, torch.sin)), 0, False)


def empty(case, dtype, rows=2) -> Store:
    _, G, D, rule = CASES[case]
    window = MOST if rule.window is None else rule.window

    def coded(tokens, channels):
        count = -(-rule.sinks // tokens) + -(-(window - rule.recent) // tokens)
        one = quantize(torch.zeros(tokens, D, dtype=dtype), rule.bits, channels)
        return [x.expand(rows, G, count, *x.shape).clone() for x in one]

    full = [torch.zeros(rows, G, n, D, dtype=dtype) for n in (rule.recent + rule.together, rule.recent + 1)]
    kept = [torch.zeros(rows, G, rule.kept, D, dtype=dtype) for _ in range(2)]
    return Store(*full, *coded(rule.together, None), *coded(1, rule.channels), *kept)


def stands(case, dtype):
    """Stores of two rows as they are before tokens number t and t + 5, for every t of STANDS."""
    rule, (_, k, v) = CASES[case][3], drawn(case, dtype, dtype)
    now, found = empty(case, dtype), {}
    for t in range(MOST):
        for b, stand in enumerate((t, t - 5)):
            if stand in STANDS:
                for mine, theirs in zip(found.setdefault(stand, empty(case, dtype)), now, strict=True):
                    mine[b] = theirs[b]
        for b in range(2):
            _take(Store(*(x[b : b + 1] for x in now)), k[b, t], v[b, t], t, rule)
    return found


def step(attend, case, t, store, held, dtype, device="cpu", **options):
    rule, places = CASES[case][3], torch.tensor([t, t + 5])
    qkv = [x[torch.arange(2), places].to(device) for x in drawn(case, held, dtype)]
    slots = Store(*(x.clone().to(device) for x in store))
    angles = angles_of(CASES[case][2], rule, dtype)
    moved = Angles(*(getattr(angles, name).to(device) for name in list(Angles.__dataclass_fields__)[:4]), 0, False)
    out = attend(*qkv, slots, places.to(device), rule=rule, angles=moved, scale=0.125, **options)
    return out.cpu(), Store(*(x.cpu() for x in slots))


@pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device or TRITON_INTERPRET=1")
@pytest.mark.parametrize("option", ["plain", "sink logit, softcap"])
@pytest.mark.parametrize(("way", "case"), WAYS)
@pytest.mark.parametrize("dtype", [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16])
def test_kernels_are_as_close_to_float64_as_plain_torch_and_store_the_same(
    dtype, way, case, option, monkeypatch, tmp_path_factory
):
    if INTERPRETED:
        emulate(monkeypatch, tmp_path_factory.getbasetemp())
    options = {} if option == "plain" else dict(sink_logit_H=torch.arange(CASES[case][0]) / 3, softcap=5.0)
    errors = []
    for t, store in stands(case, dtype).items():
        exact = Store(*(x.double() if x.is_floating_point() else x for x in store))
        truth, _ = step(rounded_decode, case, t, exact, dtype, torch.float64, **options)
        by_torch, expected = step(rounded_decode, case, t, store, dtype, dtype, **options)
        on = {name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in options.items()}
        found, held = step(IMPLEMENTATIONS[way], case, t, store, dtype, dtype, DEVICE, **on)
        errors.append(torch.stack([(x - truth).norm(dim=-1) / truth.norm(dim=-1) for x in (found, by_torch)]))
        ours, plain = (float((x - truth).norm() / truth.norm()) for x in (found, by_torch))
        print(case, t, ours, plain)
        assert found.isfinite().all()
        assert case in SHARP or ours <= 2 * plain
        for name, mine, theirs in zip(Store._fields, held, expected, strict=True):
            assert torch.equal(mine, theirs), (t, name)
    each = torch.stack(errors, 1).flatten(1)  # of a query head at one t
    ours, plain = each.clamp(min=1e-6).log().mean(1).exp() if case in SHARP else each.norm(dim=1)
    assert ours <= 2 * plain
    assert each[0].max() <= 2 * each[1].max()  # nor is any head lost among the others
