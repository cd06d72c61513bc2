"""span.cu on a CPU (one_block.py), against float64, over tokens of whole groups alone.

On a GPU, with all the rest of `rounded_decode`, it runs in test_rounded_decode.py.
"""

import math

import pytest
import torch
from one_block import emulate, needs_compiler
from test_rounded_decode import CASES, SHARP, WAYS, angles_of, drawn, stands

from sinkctl.kernels.rounded_decode import Store, cuda
from sinkctl.kernels.rounded_decode.reference import held
from sinkctl.kernels.rounded_decode.tables import tables_of

T = 293  # of the first row; the second is 5 tokens on
COUNT, BEFORE = 3, 2  # spans, and what stands before them in what is written


def expected(case, t, store, b, dtype, softcap):
    """Log-sum-exp and mean value of one row's whole groups, by query head."""
    H, G, D, rule = CASES[case]
    q, k, v = (x[b, t].double() for x in drawn(case, dtype, dtype))
    end = max(0, t - rule.recent) // rule.together * rule.together
    apart = rule.window is not None and rule.sinks > 0 and t > rule.sinks + rule.window
    first = 0 if rule.window is None else t - rule.window
    oldest = max(rule.sinks, first) if apart or not rule.sinks else 0
    number = torch.arange(max(oldest, rule.kept), end)
    exact = Store(*(x[b : b + 1].double() if x.is_floating_point() else x[b : b + 1] for x in store))
    k_GJD, v_GJE = held(exact, k, v, t, rule, number)
    cos, sin = angles_of(D, rule, torch.float64).of(t - number)
    x, y = k_GJD.chunk(2, -1)
    turned = torch.cat([x * cos + y * sin, y * cos - x * sin], -1)
    score = (q.view(G, H // G, D) @ turned.mT) * 0.125
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    return score.logsumexp(-1).flatten(), (score.softmax(-1) @ v_GJE).reshape(H, D)


@needs_compiler
@pytest.mark.parametrize("case", [case for way, case in WAYS if way == "cuda" and case not in SHARP])
@pytest.mark.parametrize(("dtype", "softcap"), [(torch.float16, None), (torch.bfloat16, 5.0)])
def test_spans_are_attention_over_whole_groups(case, dtype, softcap, monkeypatch, tmp_path_factory):
    emulate(monkeypatch, tmp_path_factory.getbasetemp())
    H, _, D, rule = CASES[case]
    store = stands(case, dtype)[T]
    q = torch.stack([drawn(case, dtype, dtype)[0][b, T + 5 * b] for b in range(2)])
    m, norm = (torch.full((2 * H * (BEFORE + COUNT),), torch.nan) for _ in range(2))
    acc = torch.full((2 * H * (BEFORE + COUNT), D), torch.nan)
    tables = tables_of(angles_of(D, rule, torch.float32), rule.bits)
    t_B = torch.tensor([T, T + 5])
    cuda.spans(None, q, store, t_B, tables, (m, norm, acc), COUNT, BEFORE, rule, 0.125 / math.log(2), softcap)
    m, norm, acc = (x.view(2, H, BEFORE + COUNT, -1)[:, :, BEFORE:].double() for x in (m, norm, acc))
    share = torch.exp2(m - m.amax(2, keepdim=True))
    total = (norm * share).sum(2)
    lse = (torch.log2(total) + m.amax(2))[..., 0] * math.log(2)
    out = (acc * share).sum(2) / total
    for b in range(2):
        true_lse, truth = expected(case, T + 5 * b, store, b, dtype, softcap)
        assert (out[b] - truth).norm() <= 1.5e-3 * truth.norm()
        assert ((lse[b] - true_lse).abs() <= 2e-3 + 2**-11 * true_lse.abs()).all()  # scores are of float16 products
