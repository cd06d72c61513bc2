"""What every metric promises, whatever it measures."""

import dataclasses

import pytest
import torch
from views_by_hand import H, block_view, random_view

from sinkctl.kernels.column_sums.reference import Visible
from sinkctl.metrics import ATTENTION, BLOCK
from sinkctl.metrics.samples import Groups
from sinkctl.metrics.views import Scope

SCOPE = Scope(sinks=3, local=4, tail=5)
LAYERS = {
    "causal": lambda: {},
    "window, sink logits": lambda: {"visible": Visible(window=6), "sink_logit_H": torch.linspace(-1, 2, H).double()},
    "bidirectional": lambda: {"visible": Visible(causal=False)},
    "ALiBi, softcap": lambda: {"slope_H": torch.linspace(0.1, 1, H).double(), "softcap": 3.0},
    "chunks": lambda: {"visible": Visible(also=lambda query_T1, key_S: query_T1 // 6 == key_S // 6)},
}


def gated(view):
    """Everything that a metric may ask for, a gate and kinds of keys too."""
    place_T = torch.arange(view.real_NT.shape[1])
    groups = Groups((place_T % 3).expand(view.real_NT.shape), 3, view.real_NT & (place_T > 4))
    kept_NHTE = view.sums.out_BHTE * torch.sigmoid(view.q_NHTD[..., :1])
    return dataclasses.replace(view, kept_NHTE=kept_NHTE, groups=groups)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_sample_measures_the_same_alone_as_padded_beside_a_longer_one(layer):
    both, alone = (gated(random_view(lengths, **LAYERS[layer]())) for lengths in ((9, 17), (9,)))
    for name, metric in ATTENTION.items():
        padded, own = metric(both, SCOPE), metric(alone, SCOPE)
        if name.startswith("learned_") and both.sink_logit_H is None:
            assert padded is None
            continue
        assert padded.shape[0] == 2, name
        if name in ("alpha", "first_keys"):  # by token
            tokens = 2 if name == "alpha" else 1
            assert padded.narrow(tokens, 9, 8)[0].isnan().all(), name
            padded = padded.narrow(tokens, 0, 9)
        torch.testing.assert_close(padded[:1], own, rtol=1e-9, atol=1e-12, equal_nan=True, msg=name)
        exists = ~own.isnan()
        if name == "first_keys" and both.visible.causal:
            assert torch.equal(exists[0], torch.ones(9, SCOPE.sinks).tril().bool())
        elif name != "boost" or layer in ("causal", "bidirectional", "ALiBi, softcap"):  # else no leading key is seen
            assert exists.all(), name


def test_a_block_measures_the_same_alone_as_padded_beside_a_longer_one():
    for name, metric in BLOCK.items():
        padded, own = metric(block_view((9, 17)), SCOPE), metric(block_view((9,)), SCOPE)
        assert padded.shape[0] == 2, name
        if name == "patch_norms":
            assert padded[0, 9:].isnan().all()
            padded = padded[:, :9]
        torch.testing.assert_close(padded[:1], own, rtol=1e-9, atol=1e-12, msg=name)


def test_half_precision_is_measured_in_float32():
    half, double = gated(random_view(dtype=torch.bfloat16)), gated(random_view())
    for name, metric in ATTENTION.items():
        if not name.startswith("learned_"):
            found, expected = metric(half, SCOPE), metric(double, SCOPE)
            assert found.dtype == torch.float32, name
            torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.05, equal_nan=True, msg=name)
    for name, metric in BLOCK.items():
        assert metric(block_view(dtype=torch.bfloat16), SCOPE).dtype in (torch.float32, torch.float64), name


def test_a_sample_of_one_token_has_no_numbers_of_the_others():
    view, block = random_view((1,)), block_view((1,))
    measured = {name: metric(view, SCOPE) for name, metric in ATTENTION.items()}
    for name in ("qk_cosine", "key_logit", "query_norm", "value_drain", "entropy_share"):
        assert measured[name].isnan().all(), name
    for name in ("key_norms", "value_norms", "written_norms"):
        assert measured[name][..., 1].isnan().all(), name
        assert measured[name][..., 0].isfinite().all(), name
    assert measured["alpha"].flatten().tolist() == pytest.approx([1.0] * H)
    assert measured["last_query"][0, :, 0].tolist() == pytest.approx([1.0] * H)
    assert measured["last_query"][..., 1:].isnan().all()
    assert BLOCK["norm_ratio"](block, SCOPE).isnan().all()
