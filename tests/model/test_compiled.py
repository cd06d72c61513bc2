"""When kernels that are compiled as they first run are spared, and what runs in their place."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sinkctl.kernels import present, stream_attention
from sinkctl.kernels.present import fa3_runs, triton_runs, uncompiled
from sinkctl.model.compiled import spared_kernels
from sinkctl.model.load import load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.schema import ConvertRecipe, MeasureRecipe, StreamRecipe
from sinkctl.tasks import convert, measure, stream

FEW = "too few to repay compiling kernels"


def model(parameters: float) -> SimpleNamespace:
    return SimpleNamespace(num_parameters=lambda: int(parameters))


@pytest.mark.parametrize(
    ("parameters", "tokens", "longest", "spared"),
    [
        (135e6, 20_000, 0, True),
        (135e6, 1e6, 0, False),
        (7e9, 20_000, 64, True),
        (7e9, 300_000, 64, False),
        (135e6, 20_000, 4096, False),
        (7e9, None, 0, False),
    ],
)
def test_kernels_are_compiled_where_the_work_repays_it(parameters, tokens, longest, spared):
    assert (spared_kernels(model(parameters), tokens, longest) is not None) == spared


@pytest.fixture
def triton(monkeypatch):
    """As on a GPU that runs Triton."""
    monkeypatch.setattr(present, "_triton_can", lambda: (True, "Triton"))
    monkeypatch.setattr(present, "_fa3_can", lambda: (False, "not Hopper"))


def test_what_is_spared_is_spared_inside_alone(triton):
    with uncompiled("few"):
        with uncompiled(None):
            assert triton_runs() == fa3_runs() == (False, "few")
        assert triton_runs(anyway=True) == (True, "Triton")
    assert triton_runs() == (True, "Triton")


@pytest.mark.parametrize(
    ("width", "value_width", "options", "chosen"),
    [
        (64, 64, {}, "cuda_flash"),
        (64, 64, {"softcap": 50.0}, "triton"),  # the flash operator lacks it, and tiles take longer than compiling
        (64, 64, {"alibi": True}, "triton"),
        (192, 128, {}, "triton"),
        (20, 20, {}, "triton"),
    ],
)
def test_a_short_stream_attends_by_the_flash_operator_where_that_can(width, value_width, options, chosen, triton):
    q, v = (
        SimpleNamespace(
            device=SimpleNamespace(type="cuda"), dtype=torch.bfloat16, shape=(1, 2, 1, w), requires_grad=False
        )
        for w in (width, value_width)
    )
    assert stream_attention.select(q, v, **options)[0].name == "triton"
    with uncompiled("few"):
        kernel, reason = stream_attention.select(q, v, **options)
    assert kernel.name == chosen
    assert (chosen == "triton") == ("few" not in reason)


def test_every_task_spares_them_while_it_runs_and_no_longer(demo, tmp_path):
    said = {}

    def noting(task):
        return lambda _: said.setdefault(task, set()).add(triton_runs()[1].rpartition("are ")[2])

    few = {"tokens": 64, "samples": 1, "length": 64}
    measure.run(
        MeasureRecipe.model_validate({"input": {"samples": 2}, "cost": {"run": False}}),
        demo,
        progress=noting("measure"),
    )
    stream.run(StreamRecipe.model_validate({"limit": 300}), demo, progress=noting("stream"))
    convert.run(
        ConvertRecipe.model_validate(
            {"sink": {"kind": "softmax1"}, "calibration": {"samples": 1, "window": 16}, "evaluation": few}
        ),
        demo, output=tmp_path / "out", progress=noting("convert"),
    )  # fmt: skip
    assert all(FEW in reasons for reasons in said.values())
    assert set(said) == {"measure", "stream", "convert"}
    assert FEW not in triton_runs()[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sinks", [0, 4])
def test_on_a_gpu_a_short_stream_scores_as_one_that_compiles_kernels(sinks, monkeypatch):
    loaded = load(ModelSettings(device="cuda", dtype="bfloat16"))
    recipe = StreamRecipe.model_validate(
        {"limit": 3000, "policies": [{"kind": "sink_window", "sinks": sinks, "window": 252}]}
    )
    short = stream.run(recipe, loaded)
    monkeypatch.setattr("sinkctl.tasks.stream.task.spared_kernels", lambda *_: None)
    compiled = stream.run(recipe, loaded)
    (ours,), (theirs,) = short.nll.values(), compiled.nll.values()
    assert abs(ours.mean() - theirs.mean()) < 0.01
    assert np.abs(ours - theirs).mean() < 0.03
