"""span.cu on a CPU: one block's threads in turns, instructions of the tensor cores by their definition (one_block.hpp).

Against float64, over tokens of whole groups alone. On a GPU it runs in test_rounded_decode.py.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from test_rounded_decode import CASES, GREATEST, angles_of, drawn, stands

from sinkctl.kernels.rounded_decode import Store, cuda
from sinkctl.kernels.rounded_decode.reference import held
from sinkctl.kernels.rounded_decode.tables import tables_of

if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

COUNT, BEFORE = 3, 2  # spans, and what stands before them in what is written


@pytest.fixture
def emulated(monkeypatch, tmp_path):
    """`cuda.launched` in one thread of a CPU."""

    def launched(variant, grid, arguments):
        library = tmp_path / f"span_{variant[0]}_{variant[1]}.so"
        if not library.exists():
            source = Path(cuda.__file__).parent / "span.cu"
            command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", *cuda.options(*variant, False), f'-DSOURCE="{source}"']
            subprocess.run([*command, "-x", "c++", Path(__file__).parent / "one_block.hpp", "-o", library], check=True)
        values = [ctypes.c_void_p(x.data_ptr()) if isinstance(x, torch.Tensor) else x for x in arguments]
        fields = [(f"argument_{i}", type(x)) for i, x in enumerate(values)]
        packed = type("Arguments", (ctypes.Structure,), {"_fields_": fields})(*values)
        ctypes.CDLL(str(library)).run(ctypes.byref(packed), *grid)

    monkeypatch.setattr(cuda, "launched", launched)


def expected(case, t, store, b, dtype, softcap):
    """Maximum score in units of ln 2, sum and weighted values of one row's whole groups, by query head."""
    H, G, D, rule = CASES[case]
    q, k, v = (x[b, t].double() for x in drawn(case, dtype, dtype))
    end = max(0, t - rule.recent) // rule.together * rule.together
    apart = rule.window is not None and rule.sinks > 0 and t > rule.sinks + rule.window
    first = 0 if rule.window is None else t - rule.window
    oldest = max(rule.sinks, first) if apart or not rule.sinks else 0
    number = torch.arange(max(oldest, rule.kept, 0), end)
    exact = Store(*(x[b : b + 1].double() if x.is_floating_point() else x[b : b + 1] for x in store))
    k_GJD, v_GJE = held(exact, k, v, t, rule, number)
    cos, sin = angles_of(D, rule, torch.float64).of(t - number)
    a, b_ = k_GJD.chunk(2, -1)
    turned = torch.cat([a * cos + b_ * sin, b_ * cos - a * sin], -1)
    score = (q.view(G, H // G, D) @ turned.mT) * 0.125
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    return score.logsumexp(-1).flatten(), (score.softmax(-1) @ v_GJE).reshape(H, D)


@pytest.mark.parametrize("case", [case for case, (H, G, D, rule) in CASES.items() if cuda.covers(rule, (D, D), H // G)])
@pytest.mark.parametrize(("dtype", "softcap"), [(torch.float16, None), (torch.bfloat16, 5.0)])
def test_spans_in_cuda_are_attention_over_whole_groups(case, dtype, softcap, emulated):
    H, G, D, rule = CASES[case]
    for t, store in stands(case, dtype).items():
        if t < 200:
            continue
        q = torch.stack([drawn(case, dtype, dtype)[0][b, t + 5 * b] for b in range(2)])
        m, norm = (torch.full((2 * H * (COUNT + BEFORE),), torch.nan) for _ in range(2))
        acc = torch.full((2 * H * (COUNT + BEFORE), D), torch.nan)
        tables = tables_of(angles_of(D, rule, torch.float32), rule.bits)
        scale = 0.125 / torch.log(torch.tensor(2.0)).item()
        cuda.spans(q, store, torch.tensor([t, t + 5]), tables, (m, norm, acc), COUNT, BEFORE, rule, scale, softcap)
        m, norm, acc = (x.view(2, H, COUNT + BEFORE, -1)[:, :, BEFORE:].double() for x in (m, norm, acc))
        share = torch.exp2(m - m.amax(2, keepdim=True))
        total = (norm * share).sum(2)
        lse = (torch.log2(total) + m.amax(2)) * torch.log(torch.tensor(2.0))
        for b in range(2):
            truth_lse, truth = expected(case, t + 5 * b, store, b, dtype, softcap)
            error = float(((acc * share).sum(2)[b] / total[b] - truth).norm() / truth.norm())
            print(case, dtype, t, error, float((lse[b, :, 0] - truth_lse).abs().max()))
            assert error <= 3e-3
