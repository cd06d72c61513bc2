"""Small checkpoints on disk that read text, and what runs of them found, side by side."""

import shutil
from pathlib import Path

from families import tiny
from places import DATA

TIMED = ("second", "_ms", "ms_", "phases", "memory", "pace", "choices", "per_s")  # in names of what differs every time


def store(folder: Path, model_type: str, settings: dict) -> Path:
    """A checkpoint of a shape, in float32, with the tokenizer of stories260K."""
    tiny(model_type, settings | {"vocab_size": 512}).float().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DATA / "stories260K" / name, folder)
    return folder


def numbers(found, place: str = "") -> dict[str, float]:
    """Every number of a result but times and sizes of memory, by its place."""
    if isinstance(found, dict):
        name = str(found.get("name", ""))
        inner = {f"{place}.{key}": each for key, each in found.items() if not any(w in name + "." + key for w in TIMED)}
    elif isinstance(found, list):
        inner = {f"{place}.{number}": each for number, each in enumerate(found)}
    else:
        return {place: found} if isinstance(found, float) else {}
    return {own: x for key, each in inner.items() for own, x in numbers(each, key).items()}
