"""Shared models and texts; everything runs offline."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch

from sinkctl.model.load import DEMO, LoadedModel, load
from sinkctl.model.settings import ModelSettings

DATA = Path(__file__).parent / "data"


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny models gain nothing from two, and lose much where something else is running."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demo() -> LoadedModel:
    """The built-in model: a real sink."""
    return load(ModelSettings(device="cpu"))


@pytest.fixture(scope="session")
def stories() -> LoadedModel:
    """stories260K: a real model without a sink."""
    return load(ModelSettings(name=str(DATA / "stories260K"), device="cpu"))


@pytest.fixture(scope="session")
def book() -> str:
    """The built-in text."""
    return (DEMO / "text.txt").read_text(encoding="utf-8")
