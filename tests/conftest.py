"""Shared models and texts; everything runs offline.

torch is imported inside fixtures: xdist's first process reads this file too, and runs no test.
"""

from __future__ import annotations

import gc
import io
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For xdist's processes: glibc keeps what is freed, so that the kernel need not clear each tensor's memory anew.
os.environ |= {"MALLOC_MMAP_THRESHOLD_": f"{1 << 28}", "MALLOC_TRIM_THRESHOLD_": f"{1 << 29}"}
os.environ["SINKCTL_SETTINGS"] = "off"  # a test's settings are its own

from typing import TYPE_CHECKING

import pytest
from pictures import are_written, only_put_together
from places import DATA

if TYPE_CHECKING:
    from sinkctl.model.load import LoadedModel


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny models gain nothing from two, and lose much where something else is running."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _few_samples_judge_a_conversion(monkeypatch):
    """The field's hundred are for a rate that is to be published; each costs every judged checkpoint a pass."""
    if (evaluate := sys.modules.get("sinkctl.tasks.convert.evaluate")) is not None:
        monkeypatch.setattr(evaluate, "SINK_SAMPLES", 12)


@pytest.fixture(autouse=True)
def _pictures_are_written_where_pages_are_a_users(request, monkeypatch):
    """A page of a run has up to 45, for 0.06 s each."""
    if "sinkctl.report.html" in sys.modules and not are_written(request.node.nodeid):
        only_put_together(monkeypatch.setattr)


@pytest.fixture(scope="session", autouse=True)
def _imports_are_not_collected():
    """Else every collection of garbage, such as accelerate's at the end of a training, looks through all of them."""
    gc.freeze()


@pytest.fixture(scope="session")
def demo() -> LoadedModel:
    """The built-in model: a real sink."""
    from sinkctl.model.load import load
    from sinkctl.model.settings import ModelSettings

    return load(ModelSettings(device="cpu"))


@pytest.fixture(scope="session")
def stories() -> LoadedModel:
    """stories260K: a real model without a sink."""
    from sinkctl.model.load import load
    from sinkctl.model.settings import ModelSettings

    return load(ModelSettings(name=str(DATA / "stories260K"), device="cpu"))


@pytest.fixture(scope="session")
def book() -> str:
    """The built-in text."""
    from sinkctl.model.load import DEMO

    return (DEMO / "text.txt").read_text(encoding="utf-8")


@pytest.fixture
def in_this_process(monkeypatch):
    """`sinkctl bench` without processes of its own, its hardware's rates from small matrices and copies."""
    from in_process import InProcess  # imports every task

    monkeypatch.setattr("sinkctl.tasks.bench.driver.Worker", InProcess)
    monkeypatch.setattr("sinkctl.tasks.bench.rates.SIZES", {"cpu": (64, 1 << 16)})


@pytest.fixture
def sinkctl(monkeypatch, capfd):
    """Run a command line in this process; returns (exit code, stdout, stderr)."""
    from sinkctl.cli import main

    def run(*arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sinkctl", *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()  # what the test itself wrote, such as transformers' bars
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return run
