"""Files of weights by their headers: which there are, whether they are whole, what is in them. Imports no torch."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from sinkctl.errors import ModelError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = b"version https://git-lfs"


def check_no_pointer(path: Path) -> None:
    """Raise ModelError for a Git LFS pointer in the place of weights."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ModelError(f"{path} is a Git LFS pointer, not weights; `git lfs pull` in its folder fetches them")


def check_weight_file(path: Path) -> None:
    """Raise ModelError for safetensors that are cut short, and for a Git LFS pointer in their place."""
    check_no_pointer(path)
    try:
        with safe_open(path, framework="np"):  # reads the header, and holds the file's size against it
            pass
    except SafetensorError as error:
        raise ModelError(f"{path} is damaged or cut short ({error}); download it again") from error


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers will read: the one, or those of the index; ModelError for a damaged index."""
    if (folder / WHOLE).exists():
        return [folder / WHOLE]
    if not (folder / INDEX).exists():
        if shards := sorted(folder.glob("*-of-*.safetensors")):
            raise ModelError(f"{folder / INDEX} is missing, which says what is in {shards[0].name}; download it again")
        return []
    try:
        named = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(named))]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{folder / INDEX} is damaged; download it again") from error


def shapes_in(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor of a safetensors file."""
    with safe_open(path, framework="np") as file:
        return [(name, tuple(file.get_slice(name).get_shape())) for name in file.keys()]  # noqa: SIM118 (no mapping)
