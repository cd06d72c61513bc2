"""The flags of `sinkctl convert` that are about training, and the fields of the recipe they go to."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sinkctl.cli.options import option
from sinkctl.errors import UsageError

_TRAINING = "Training"
FIELDS = {
    "train-text": "training.text.files", "train-window": "training.window",
    **{
        name: f"training.{name.replace('-', '_')}"
        for name in (
            "trained", "lr", "sink-lr", "batch", "length", "weight-decay", "optimizer", "seed", "control", "precision",
        )
    },
}  # fmt: skip

Steps = Annotated[
    int | None, option(_TRAINING, "Training steps after the start; 0 (default): the computed start is all.")
]
TrainText = Annotated[
    list[str] | None,
    option(
        _TRAINING,
        "Text, or .npy of token ids, to train on (default: what follows the held-out text). May repeat.",
        metavar="FILE",
    ),
]
Trained = Annotated[
    str | None,
    option(
        _TRAINING,
        "all (default): every weight; new: the mechanism; attention, lora: and the projections.",
        metavar="all|new|attention|lora",
    ),
]
LR = Annotated[
    str | None,
    option(
        _TRAINING, "Highest learning rate of weights (default: 2e-5; lora 2e-4, new and from scratch 1e-3).", "--lr"
    ),
]
SinkLR = Annotated[
    str | None,
    option(_TRAINING, "Of the mechanism; auto (default): 0.01 for numbers a head, else as --lr.", "--sink-lr"),
]
Batch = Annotated[int | None, option(_TRAINING, "Sequences a step (default 32).")]
Length = Annotated[
    str | None, option(_TRAINING, "Tokens a sequence; auto (default): two windows, at most the context.")
]
TrainWindow = Annotated[
    str | None,
    option(
        _TRAINING,
        "Past tokens a query sees in training: N, full, or auto (default): W where the first token is replaced.",
        metavar="N|auto|full",
    ),
]
WeightDecay = Annotated[float | None, option(_TRAINING, "Of matrices, never of the mechanism (default 0).")]
Optimizer = Annotated[
    str | None,
    option(_TRAINING, "adamw (default), or muon for the matrices inside layers.", metavar="adamw|muon"),
]
Seed = Annotated[int | None, option(_TRAINING, "Draws the sequences, and random weights (default 0).")]
Control = Annotated[
    bool | None,
    option(
        _TRAINING, "Train a checkpoint without the mechanism just so, beside it (default).", "--control/--no-control"
    ),
]
Precision = Annotated[
    str | None, option(_TRAINING, "Of matrix products: auto (default: bfloat16 on a GPU), float32, bfloat16.")
]
ResumeTraining = Annotated[
    Path | None,
    typer.Option(
        "--resume", metavar="DIR", help="Go on with the training that was stopped there; takes no other flags."
    ),
]


def check_trained(recipe, flags: dict[str, Any]) -> None:
    """UsageError for a training flag where nothing is trained."""
    if recipe.steps:
        return
    needless = [name for name in FIELDS if flags[name] is not None and (name != "seed" or recipe.scratch is None)]
    if needless:
        raise UsageError(f"--{needless[0]}: nothing is trained; say for how long, --steps N")
