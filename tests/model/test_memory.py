"""Blocks as large as a GPU's multiprocessors share out evenly; and where memory does not suffice."""

import errno

import pytest
import torch

from sinkctl.errors import ModelError, out_of_memory
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
