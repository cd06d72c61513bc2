"""The GPU's context begins beside the imports, through the driver's own calls, and only where a GPU is asked for."""

import ctypes

import pytest
import torch

from sinkctl import cuda_context
from sinkctl.cuda_context import begin_context


@pytest.fixture(autouse=True)
def _a_build_of_torch_with_cuda(monkeypatch):
    monkeypatch.setattr(cuda_context, "_torch_uses_it", lambda: True)


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


def test_without_a_gpu_a_driver_or_a_torch_that_uses_it_none_begins(monkeypatch):
    assert begin_context("cpu") is None

    def missing(name):
        raise OSError(name)

    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", missing)
        assert begin_context("auto") is None
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("asked a driver that torch does not use"))
    monkeypatch.setattr(cuda_context, "_torch_uses_it", lambda: False)
    assert begin_context("auto") is None


def test_a_build_of_torch_says_whether_it_uses_cuda(monkeypatch):
    monkeypatch.undo()
    assert cuda_context._torch_uses_it() == (torch.version.cuda is not None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torch_goes_on_with_the_context_that_was_begun():
    begin_context("cuda:0").join()
    assert float(torch.ones(3, device="cuda").sum()) == 3
