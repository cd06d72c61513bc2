"""The GPU's context begins beside the imports, through the driver's own calls, and only where a GPU is asked for."""

import ctypes

import pytest
import torch

from sinkctl import cuda_context
from sinkctl.cuda_context import begin_context


class Driver:
    """Notes what it is asked; `fails` names a call that does not succeed."""

    def __init__(self, fails: str = ""):
        self.asked, self._fails = [], fails

    def __getattr__(self, name):
        def call(*args):
            self.asked.append((name, *(arg for arg in args if isinstance(arg, int))))
            return int(name == self._fails)

        return call


@pytest.mark.parametrize(
    ("device", "processes", "ordinal"), [("auto", "1", 0), ("cuda", "1", 0), ("cuda:2", "1", 2), ("auto", "4", 3)]
)
def test_the_context_is_that_of_the_gpu_which_the_run_takes(device, processes, ordinal, monkeypatch):
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setenv("LOCAL_RANK", "3")
    begin_context(device).join()
    assert driver.asked == [("cuInit", 0), ("cuDeviceGet", ordinal), ("cuDevicePrimaryCtxRetain",)]


@pytest.mark.parametrize("fails", ["cuInit", "cuDeviceGet"])
def test_what_the_driver_refuses_is_left_to_torch(fails, monkeypatch):
    driver = Driver(fails)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    begin_context("auto").join()
    assert driver.asked[-1][0] == fails


def test_a_run_on_a_cpu_and_a_machine_without_a_driver_begin_none(monkeypatch):
    assert begin_context("cpu") is None

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(cuda_context.ctypes, "CDLL", missing)
    assert begin_context("auto") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torch_goes_on_with_the_context_that_was_begun():
    begin_context("cuda:0").join()
    assert float(torch.ones(3, device="cuda").sum()) == 3
