"""Blocks as large as a GPU's multiprocessors share out evenly; and where memory does not suffice."""

import errno

import pytest
import torch

import sinkctl
from sinkctl.errors import ModelError, out_of_memory, within_memory
from sinkctl.model.memory import in_waves


@pytest.mark.parametrize(
    ("processors", "tokens"), [(132, 16_896), (108, 13_824), (128, 16_384), (58, 14_848), (40, 15_360), (300, 16_384)]
)
def test_a_block_is_so_many_tiles_for_every_multiprocessor_of_a_gpu(processors, tokens):
    assert in_waves(16_384, processors) == tokens


def test_memory_that_does_not_suffice_is_told_from_a_fault_whoever_says_so():
    with pytest.raises(RuntimeError) as cpu:  # no class of its own there
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(ModelError) as raised:
        raise ModelError("give a smaller --chunk") from torch.OutOfMemoryError("no")
    cublas = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    mapped = RuntimeError("unable to mmap 4096 bytes from file </dev/shm/x>: Cannot allocate memory (12)")
    forked, full = OSError(errno.ENOMEM, "Cannot allocate memory"), OSError(errno.ENOSPC, "No space left on device")
    assert all(map(out_of_memory, [cpu.value, raised.value, cublas, mapped, forked, torch.OutOfMemoryError("no")]))
    assert not any(map(out_of_memory, [RuntimeError("shapes differ"), full, ValueError("out of memory of mine")]))


def test_what_takes_less_is_said_where_memory_does_not_suffice_and_nowhere_else():
    def said(error):
        with within_memory("cpu", "--chunk takes fewer"):
            raise error

    with pytest.raises(ModelError, match=r"^cpu is out of memory: --chunk takes fewer$"):
        said(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    for error in (RuntimeError("shapes differ"), ModelError("CPU out of memory: --batch takes fewer")):
        with pytest.raises(type(error)) as raised:
            said(error)
        assert raised.value is error


def test_a_cpu_without_memory_is_no_model_that_cannot_be_measured(monkeypatch):
    """Where attention is read, and where things are taken away: those costs are left out."""
    recipe = {"device": "cpu", "kinds": ["natural"], "samples": 2, "length": 64, "cost": {"run": True, "samples": 2}}

    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("sinkctl.tasks.measure.ablations.Ablations.run", full)
    result = sinkctl.measure("demo", **recipe, progress=lambda _: None)
    assert "Not all costs were measured: cpu is out of memory: --batch takes fewer samples." in result.result.notes
    monkeypatch.setattr("sinkctl.metrics.observe.run", full)
    with pytest.raises(ModelError, match=r"^cpu is out of memory: --batch takes fewer samples at once"):
        sinkctl.measure("demo", **recipe, progress=lambda _: None)
