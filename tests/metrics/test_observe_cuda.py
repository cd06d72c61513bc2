"""The same measurements on a GPU."""

import dataclasses
import warnings

import pytest
import torch
from families import HYBRID, REFUSED, STREAMED, tiny
from views_by_hand import block_view, random_view

from sinkctl.kernels.column_sums import AttentionSums
from sinkctl.metrics import ATTENTION, BLOCK
from sinkctl.metrics.observe import observe
from sinkctl.metrics.samples import laid_out
from sinkctl.metrics.views import Known, Scope
from sinkctl.tasks.measure.tally import Tally

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
FAMILIES = {**STREAMED, **HYBRID, **REFUSED}


def measured(model, samples, layout="right") -> tuple[Tally, dict[str, str]]:
    tally = Tally(Scope(), (0.3,))
    choices = observe(model, laid_out(samples, model.device, layout), tally)
    tally.end(len(samples))
    return tally, choices


def draws(*lengths: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(3, 64, (length,), generator=draw) for length in lengths]


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss", "mpt", "gemma2", "llama4", "diffllama", "qwen3_next"])
def test_the_gpu_gives_what_the_cpu_gives_in_float32(name, layout):
    if name in ("qwen3_next", "llama4") and layout != "right":
        pytest.skip("refused")
    model_type, settings, *_ = FAMILIES[name]
    model, samples = tiny(model_type, settings, torch.float32), draws(40, 23)
    here, _ = measured(model, samples, layout)
    there, _ = measured(model.cuda(), samples, layout)
    for one, two in zip(here.rows, there.rows, strict=True):
        for metric in ATTENTION.keys() & one.means.keys():
            torch.testing.assert_close(
                two.means[metric].value, one.means[metric].value, rtol=2e-3, atol=2e-4, equal_nan=True
            )
    for layer in here.blocks:
        for metric in BLOCK.keys() & here.blocks[layer].keys():
            torch.testing.assert_close(
                there.blocks[layer][metric].value, here.blocks[layer][metric].value, rtol=2e-3, atol=2e-3
            )


def test_the_kernel_reads_real_weights_as_the_cpu_does(demo, book):
    """In bfloat16, 500 tokens: α of every head within what rounding the weights and activations explains."""
    ids = torch.tensor([demo.bos_id, *demo.tokenizer(book[:4000], add_special_tokens=False).input_ids[:499]])
    exact, _ = measured(demo.model, [ids])
    rounded, choices = measured(_copied(demo.model).cuda().bfloat16(), [ids])
    assert choices["column_sums"].startswith("triton")
    for one, two in zip(exact.rows, rounded.rows, strict=True):
        first, again = (row.means["alpha"].value[:, :200] for row in (one, two))
        assert (first - again).abs().max() < 0.02
        assert float(two.means["balance_error"].value.max()) < 1e-4


@pytest.mark.parametrize("lengths", [(300,), (9, 150)])
def test_kernels_measure_half_precision_as_plain_torch_does(lengths):
    """The same numbers of bfloat16, on the CPU without a kernel."""
    view, block = random_view(lengths, torch.bfloat16), block_view(lengths, torch.bfloat16)
    view = dataclasses.replace(view, kept_NHTE=view.sums.out_BHTE * 0.5)
    for metrics, here in ((ATTENTION, view), (BLOCK, block)):
        there = _moved(here)
        for name, metric in metrics.items():
            expected, found = metric(here, Scope()), metric(there, Scope())
            if expected is None:
                assert found is None
                continue
            said = f"{name}: {{}}".format
            found, expected = found.cpu().float(), expected.float()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5, equal_nan=True, msg=said)


def test_no_layer_waits_for_the_device():
    """Attention metrics of five layers make the host wait as often as those of two."""
    waits = []
    for layers in (2, 5):
        model = tiny("llama", dict(num_hidden_layers=layers), torch.bfloat16).cuda()
        tally, samples = Tally(Scope(), (0.3,)), laid_out(draws(40), model.device)
        tally.block_metrics = {}
        observe(model, samples, Tally(Scope(), (0.3,)))  # what is waited for once in a process
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            observe(model, samples, tally)
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("called a synchronizing" in str(warning.message) for warning in said))
    assert waits[0] == waits[1]


def _moved(view):
    """To the GPU, whatever is found out about it left behind."""
    tensors = {
        field.name: getattr(view, field.name).cuda()
        for field in dataclasses.fields(view)
        if isinstance(getattr(view, field.name), torch.Tensor)
    }
    if hasattr(view, "sums"):
        tensors["sums"] = AttentionSums(*(x.cuda() for x in view.sums))
    return dataclasses.replace(view, **tensors, shared=Known())


def _copied(model):
    again = type(model)(model.config)
    again.load_state_dict(model.state_dict())
    return again.eval()
