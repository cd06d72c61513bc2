"""span.cu on a CPU (one_block.py), its parts merged, against float64.

On a GPU, with the token put in the store, it runs in test_rounded_decode.py.
"""

import pytest
import torch
from one_block import emulate, needs_compiler
from test_rounded_decode import CASES, SHARP, WAYS, angles_of, drawn, stands

from sinkctl.kernels.rounded_decode import Store, cuda, rounded_decode

STANDS = (19, 155, 293)  # of the first row; the second is 5 tokens on


@needs_compiler
@pytest.mark.parametrize("case", [case for way, case in WAYS if way == "cuda" and case not in SHARP])
@pytest.mark.parametrize(("dtype", "softcap", "pieces"), [(torch.float16, None, 1), (torch.bfloat16, 5.0, 2)])
def test_parts_are_attention(case, dtype, softcap, pieces, monkeypatch, tmp_path_factory):
    emulate(monkeypatch, tmp_path_factory.getbasetemp())
    H, _, D, rule = CASES[case]
    count, parts = 3, 3 + pieces
    sink_logit_H = torch.arange(H) / 3  # so that sums count, not their shares alone
    for t in STANDS:
        store, t_B = stands(case, dtype)[t], torch.tensor([t, t + 5])
        qkv = [torch.stack([x[b, t + 5 * b] for b in range(2)]) for x in drawn(case, dtype, dtype)]
        m, norm, acc = (torch.full((2 * H * parts, *width), torch.nan) for width in ((), (), (D,)))
        angles = angles_of(D, rule, torch.float32)
        cuda.attend(qkv, store, t_B, angles, (m, norm, acc), (count, pieces), rule, 0.125, softcap)
        m, norm, acc = (x.view(2, H, parts, -1).double() for x in (m, norm, acc))
        share = torch.exp2(m)
        found = (acc * share).sum(2) / ((norm * share).sum(2) + sink_logit_H.double().exp()[None, :, None])
        exact = Store(*(x.double() if x.is_floating_point() else x.clone() for x in store))
        truth = rounded_decode(
            *(x.double() for x in qkv), exact, t_B, rule=rule, angles=angles_of(D, rule, torch.float64), scale=0.125,
            sink_logit_H=sink_logit_H, softcap=softcap, take=False,
        )  # fmt: skip
        for b in range(2):
            assert (found[b] - truth[b]).norm() <= 1.5e-3 * truth[b].norm(), (t, b)
