"""Whether a file of weights is whole, as its header says; no torch is imported."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from sinkctl.errors import ModelError

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
