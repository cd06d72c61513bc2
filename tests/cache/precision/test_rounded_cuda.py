"""Rounded keys and values on a GPU: what they are on a CPU."""

import numpy as np
import pytest
import torch
from families import STREAMED, in_float64, tiny

from sinkctl.cache.policies import SinkWindow
from sinkctl.cache.precision.settings import Precision
from sinkctl.model.load import LoadedModel
from sinkctl.tasks.stream.scorers import BlockScorer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("bits", [4, "fp8"])
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "falcon_alibi"])
def test_a_gpu_scores_what_a_cpu_scores(family, bits, monkeypatch):
    in_float64(monkeypatch)  # stock norms too: two devices' square roots in float32 differ in the last digit
    policy = SinkWindow(sinks=3, window=20, precision=Precision(bits=bits, group=8, recent=4, keep="first:2"))
    ids = torch.randint(3, 64, (61,), generator=torch.Generator().manual_seed(1))
    found = {}
    for device in ("cpu", "cuda"):
        scorer = BlockScorer(LoadedModel(tiny(*STREAMED[family]).to(device), None, "tiny", "in memory"), policy)
        parts = [scorer.step(ids[a:b], ids[a + 1 : b + 1]) for a, b in ((0, 25), (25, 26), (26, 60))]
        found[device] = np.concatenate(parts)
    np.testing.assert_allclose(found["cuda"], found["cpu"], rtol=0, atol=1e-10)
