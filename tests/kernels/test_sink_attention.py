"""Attention with a sink for training: the reference against an extra key, the others against it, with gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.nn.attention.flex_attention import create_block_mask

from sinkctl.kernels.present import cudnn_graphs_run, fa3_runs
from sinkctl.kernels.sink_attention import IMPLEMENTATIONS, flex, select, sink_attention
from sinkctl.kernels.sink_attention.reference import first_visible

# B batch, H query heads, G key/value heads, T tokens, S keys, D head width
BEGINS = torch.tensor([0, 20, 48, 48, 61, 96], dtype=torch.int32)  # documents of 2 rows of 48 tokens; one is empty
SETTINGS = {
    "plain": dict(form=None),
    "plain_window_documents": dict(form=None, window=7, documents_N=BEGINS),
    "one_logit_a_head": dict(form="H"),
    "window": dict(form="H", window=7),
    "itself_only": dict(form="H", window=0),
    "documents": dict(form="H", documents_N=BEGINS),
    "one_logit_a_query": dict(form="BHT", window=7),
    "value": dict(form="H", valued=True),
    "all": dict(form="BHT", valued=True, window=7, documents_N=BEGINS),
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def inputs(form, valued=False, dtype=torch.float64, shape=(2, 4, 2, 48, 8), device="cpu", seed=0, **options):
    """Leaves in the order of the arguments, None where there is none, and the keywords."""
    B, H, G, T, D = shape
    draw = torch.Generator().manual_seed(seed)

    def leaf(*size, dtype=dtype):
        return torch.randn(*size, generator=draw, dtype=torch.double).to(device, dtype).requires_grad_()

    # As in training, the sink's parameters may be more precise than the activations.
    kept = torch.promote_types(dtype, torch.float32)
    logit = None if form is None else leaf(H, dtype=kept) if form == "H" else leaf(B, H, T, dtype=kept)
    value_GD = leaf(G, D, dtype=kept) if valued else None
    return (leaf(B, H, T, D), leaf(B, G, T, D), leaf(B, G, T, D), logit, value_GD), dict(scale=D**-0.5, **options)


def in_float64(arguments):
    return [x if x is None else x.detach().double().requires_grad_() for x in arguments]


def results(run, arguments, options):
    """The output and the gradient of every leaf, for one fixed gradient of the output."""
    out_BHTD = run(*arguments, **options)
    draw = torch.Generator().manual_seed(1)
    grad_BHTD = torch.randn(out_BHTD.shape, generator=draw, dtype=torch.double).to(out_BHTD)
    leaves = [x for x in arguments if x is not None]
    return [out_BHTD.detach(), *torch.autograd.grad(out_BHTD, leaves, grad_BHTD)]


def errors(found, truth) -> list[float]:
    """Of the output, dq, dk, dv, and what the sink has: relative, in norm."""
    return [float((x.double() - y).norm() / y.norm()) for x, y in zip(found, truth, strict=True)]


def seen_by_loops(B, T, window, documents_N):
    begins = list(range(0, B * T, T)) if documents_N is None else documents_N.tolist()
    seen_BTS = torch.zeros(B, T, T, dtype=torch.bool)
    for t in range(B * T):
        first = max([b for b in begins if b <= t] + ([] if window is None else [t - window]))
        seen_BTS[t // T, t % T, first % T : t % T + 1] = True
    return seen_BTS


def with_an_extra_key(q_BHTD, k_BGTD, v_BGTD, logit, value_GD, *, scale, window=None, documents_N=None):
    """torch's own attention over one more key, whose score is its entry of an additive mask."""
    B, H, T, _ = q_BHTD.shape
    bias = torch.zeros(B, H, T, T, dtype=q_BHTD.dtype)
    bias = bias.masked_fill(~seen_by_loops(B, T, window, documents_N)[:, None], -torch.inf)
    if logit is not None:
        shown = logit.view(1, H, 1, 1).expand(B, H, T, 1) if logit.dim() == 1 else logit[..., None]
        bias = torch.cat([shown, bias], dim=-1)
        extra = (
            torch.zeros_like(v_BGTD[:, :, :1]) if value_GD is None else value_GD[None, :, None].expand(B, -1, -1, -1)
        )
        k_BGTD, v_BGTD = F.pad(k_BGTD, (0, 0, 1, 0)), torch.cat([extra, v_BGTD], dim=2)
    return F.scaled_dot_product_attention(q_BHTD, k_BGTD, v_BGTD, attn_mask=bias, scale=scale, enable_gqa=True)


@pytest.mark.parametrize("name", SETTINGS)
def test_reference_equals_torchs_attention_with_an_extra_key(name):
    arguments, options = inputs(**SETTINGS[name])
    truth = results(with_an_extra_key, arguments, options)
    assert max(errors(results(sink_attention, arguments, options), truth)) < 1e-13


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", SETTINGS)
def test_flash_equals_the_reference_in_output_and_every_gradient(name, dtype, tolerance):
    arguments, options = inputs(**SETTINGS[name], dtype=dtype)
    truth = results(sink_attention, in_float64(arguments), options)
    assert max(errors(results(IMPLEMENTATIONS["flash"], arguments, options), truth)) < tolerance


def test_flash_equals_the_reference_where_whole_tiles_of_keys_are_masked():
    arguments, options = inputs("H", shape=(1, 2, 1, 1100, 8), window=3, dtype=torch.float32)
    truth = results(sink_attention, in_float64(arguments), options)
    assert max(errors(results(IMPLEMENTATIONS["flash"], arguments, options), truth)) < 1e-6


@pytest.mark.parametrize("form", ["H", "BHT"])
def test_gradients_of_flash_are_finite_differences(form):
    begins_N = torch.tensor([0, 4, 6, 9, 12], dtype=torch.int32)
    arguments, options = inputs(form, valued=True, shape=(2, 4, 2, 6, 8), window=3, documents_N=begins_N)
    assert gradcheck(lambda *leaves: IMPLEMENTATIONS["flash"](*leaves, **options), arguments)


def test_gradients_of_the_sink_alone_need_no_others():
    arguments, options = inputs("H", valued=True)
    truth = results(sink_attention, arguments, options)
    fixed = [x.detach() for x in arguments[:3]]
    out_BHTD = IMPLEMENTATIONS["flash"](*fixed, *arguments[3:], **options)
    torch.testing.assert_close(out_BHTD, truth[0])
    out_BHTD.sum().backward()
    sink_attention(*fixed, *(again := in_float64(arguments[3:])), **options).sum().backward()
    torch.testing.assert_close([x.grad for x in arguments[3:]], [x.grad for x in again])


def test_the_usual_recipe_over_a_flash_operator_has_wrong_gradients_of_queries_and_keys():
    """out·σ(lse − logit), where the operator gives no gradient through lse: what the comparisons above must catch."""

    def usual(q_BHTD, k_BHTD, v_BHTD, logit_H, _, *, scale):
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out_BHTD, lse_BHT = flash(q_BHTD, k_BHTD, v_BHTD, is_causal=True, scale=scale)
        return out_BHTD * (lse_BHT - logit_H[:, None]).sigmoid()[..., None]

    arguments, options = inputs("H", shape=(2, 4, 4, 48, 8))
    truth = results(sink_attention, arguments, options)
    out, dq, dk, dv, _ = errors(results(usual, arguments, options), truth)
    assert max(out, dv) < 1e-13
    assert min(dq, dk) > 0.05


@pytest.mark.parametrize("name", ["reference", "flash"])
def test_a_sink_that_takes_nothing_is_plain_attention(name):
    (q_BHTD, k_BGTD, v_BGTD, logit_H, _), options = inputs("H", window=7)
    closed_H = torch.full_like(logit_H, -1e4).requires_grad_()
    truth = results(IMPLEMENTATIONS[name], (q_BHTD, k_BGTD, v_BGTD), options)
    *found, grad_H = results(IMPLEMENTATIONS[name], (q_BHTD, k_BGTD, v_BGTD, closed_H), options)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-14)
    assert not grad_H.any()


def test_selection_says_why():
    q_BHTD = torch.empty(1, 1, 4, 8)
    assert select(q_BHTD)[0].name == "flash"
    implementation, reason = select(q_BHTD, softcap=50.0)
    assert implementation.name == "reference"
    assert "softcap" in reason
    assert select(q_BHTD.to("meta"))[1] == "plain torch, with a T×T map: no kernel for meta in torch.float32"


@pytest.mark.parametrize("window", [None, 0, 128, 200])
@pytest.mark.parametrize("begins", [None, [0, 30, 400, 405, 800]])
def test_blocks_of_flex_equal_those_of_the_whole_mask(window, begins):
    begins_N = None if begins is None else torch.tensor(begins, dtype=torch.int32)
    found = flex.block_mask(first_visible(torch.empty(2, 1, 400, 8), window, begins_N))
    truth = create_block_mask(found.mask_mod, 2, None, 400, 400, device="cpu")
    for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_indices", "full_q_indices"):
        assert torch.equal(getattr(found, name), getattr(truth, name)), name


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("name", SETTINGS)
def test_flex_uncompiled_equals_the_reference(name, softcap, monkeypatch):
    """Its output: there is no backward on a CPU."""
    monkeypatch.setattr(flex, "_compiled", lambda: flex._attend)
    arguments, options = inputs(**SETTINGS[name])
    arguments = [x if x is None else x.detach() for x in arguments]
    found = IMPLEMENTATIONS["flex"](*arguments, **options, softcap=softcap)
    torch.testing.assert_close(found, sink_attention(*arguments, **options, softcap=softcap), rtol=0, atol=1e-13)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_one_graph_of_flex_serves_all_masks_and_too_many_shapes_are_an_error(monkeypatch):
    """Past dynamo's limit it would run unfused, with a T×T map."""
    monkeypatch.setattr(flex, "SHAPES", 1)
    compiled = torch.compile(flex._attend, backend="eager", fullgraph=True, dynamic=False)
    monkeypatch.setattr(flex, "_compiled", lambda: compiled)

    def run(tokens, **options):
        arguments, options = inputs("H", shape=(2, 4, 2, tokens, 8), **options)
        arguments = [x if x is None else x.detach() for x in arguments]  # no backward on a CPU
        IMPLEMENTATIONS["flex"](*arguments, **options, softcap=1.5)

    torch._dynamo.reset()
    for window in (None, 3, 20):
        run(48, window=window)
        run(48, window=window, documents_N=BEGINS)
        run(48, window=window, documents_N=torch.tensor([0, 48, 50, 60, 70, 96]))
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        run(49)


def check_against_plain_torch(name, softcap=None, **setting):
    """Errors against float64, at most twice those of the reference whose products are in that precision."""
    found, plain = [], []
    for seed in range(6):  # a logit's gradient is a number a head: too few for one draw
        arguments, options = inputs(**setting, seed=seed, softcap=softcap)
        truth = results(sink_attention, in_float64(arguments), options)
        found.append(errors(results(IMPLEMENTATIONS[name], arguments, options), truth))
        with torch.autocast(arguments[0].device.type, arguments[0].dtype):
            plain.append(errors(results(sink_attention, arguments, options), truth))
    found, plain = (torch.tensor(x).mean(0) for x in (found, plain))
    assert (found <= 2 * plain).all(), (found, plain)


@pytest.mark.parametrize("name", SETTINGS)
def test_flash_in_bfloat16_errs_no_more_than_twice_plain_torch_on_a_cpu(name):
    check_against_plain_torch("flash", **SETTINGS[name], dtype=torch.bfloat16)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 8, 2, 300, 128), (2, 4, 4, 515, 64), (1, 4, 1, 300, 256)])
@pytest.mark.parametrize("way", ["flash", "cudnn", "cudnn_window", "fa3"])
@pytest.mark.parametrize("name", SETTINGS)
def test_gpu_stock_operators_err_no_more_than_twice_plain_torch_at_that_precision(name, way, shape, dtype):
    setting = dict(SETTINGS[name])
    if way.startswith("cudnn"):
        if "documents_N" in setting or ("window" in setting) != (way == "cudnn_window") or shape[-1] > 128:
            pytest.skip("cuDNN has windows by its own graphs, no documents, and heads up to 128")
        if torch.cuda.get_device_capability() < (9, 0):
            pytest.skip("not tried before Hopper")
    runs, why = {"cudnn_window": cudnn_graphs_run, "fa3": fa3_runs}.get(way, lambda: (True, ""))()
    if not runs:
        pytest.skip(why)
    for where in ("cpu", "cuda") if "documents_N" in setting else (None,):
        if where:
            setting["documents_N"] = documents_of(shape, where)
        check_against_plain_torch(way, **setting, shape=shape, device="cuda", dtype=dtype)
    assert select(torch.empty(shape, device="cuda", dtype=dtype))[0].name == "flash"


@needs_cuda
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("name", ["plain", "window", "all"])
def test_gpu_flex_errs_no_more_than_twice_plain_torch_at_that_precision(name, softcap):
    shape, setting = (2, 8, 2, 300, 128), dict(SETTINGS[name])
    if "documents_N" in setting:
        setting["documents_N"] = documents_of(shape, "cuda")
    check_against_plain_torch("flex", softcap, **setting, shape=shape, device="cuda", dtype=torch.bfloat16)
    assert select(torch.empty(1, 1, 8, 128, device="cuda", dtype=torch.bfloat16), softcap=2.0)[0].name == "flex"


def documents_of(shape, device):
    """Rows cut at 7 and 200, one document empty."""
    B, T = shape[0], shape[3]
    begins = [row * T + t for row in range(B) for t in (0, 7, 200, 200)]
    return torch.tensor([*begins, B * T], dtype=torch.int32, device=device)
