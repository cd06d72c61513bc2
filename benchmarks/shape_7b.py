"""What the scripts for the Llama-2-7B shape share: the model, a median time, the matrix rate."""

import statistics

import torch

from sinkctl.model.load import LoadedModel
from sinkctl.model.settings import ModelSettings
from sinkctl.model.shapes import SHAPES, built
from sinkctl.tasks.bench.clock import Clock
from sinkctl.tasks.bench.rates import rates

NAME, DEVICE = "llama-2-7b", torch.device("cuda", 0)
SHAPE = {field: value for field, value in SHAPES[NAME].items() if field != "model_type"}


def build() -> LoadedModel:
    """Random weights in bf16, made on the GPU."""
    return built(NAME, ModelSettings(device="cuda", dtype="bfloat16"))


def seconds(run, rounds: int = 5) -> float:
    """Median of `rounds`, after one that does not count."""
    clock = Clock(DEVICE, 0.0)
    return statistics.median([clock.once(run) for _ in range(rounds + 1)][1:])


def matmul_rate() -> float:
    """FLOP/s of a matrix product in bf16."""
    return next(rate.value for rate in rates(DEVICE, torch.bfloat16, Clock(DEVICE, 0.05)) if rate.name == "matmul")
