"""Short training runs of a checkpoint small enough for many of them."""

from pathlib import Path

import torch
from families import tiny
from safetensors.torch import load_file

from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.tasks.convert import run

SMALL = dict(vocab_size=4096, num_attention_heads=2, num_key_value_heads=1)
BRIEF = {"calibration": {"samples": 2, "window": 16}, "evaluation": {"run": False}, "steps": 4}
JUDGED = {"run": True, "tokens": 100, "samples": 2, "length": 32}
TRAINING = {"batch": 4, "length": 24, "warmup": 0, "control": False}


def small(tokenizer, model_type: str = "llama", dtype: torch.dtype = torch.float16, **settings) -> LoadedModel:
    """Random numbers of this dtype, held in float32; the tokenizer puts BOS in front."""
    model = tiny(model_type, SMALL | settings, dtype=dtype).float()
    return LoadedModel(model, tokenizer, "small", "in memory", stored_dtype=dtype)


def recipe_of(kind: str, text: Path, training: dict | None = None, sink: dict | None = None, **settings):
    files = {"files": [str(text)]}
    said = {**BRIEF, "text": files, "training": {**TRAINING, "text": files, **(training or {})}, **settings}
    return ConvertRecipe.model_validate({**said, "sink": {"kind": kind, **(sink or {})}})


def train(path: Path, loaded: LoadedModel, kind: str, text: Path, training=None, sink=None, how=None, **settings):
    """`how`: other keywords of `run`."""
    return run(recipe_of(kind, text, training, sink, **settings), loaded, output=path, **(how or {}))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def curve(outcome, label: str = "converted"):
    return next(c for c in outcome.result.convert.training.curves if c.checkpoint == label)
