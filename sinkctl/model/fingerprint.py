"""What a checkpoint's files hold, in one number."""

import hashlib
from pathlib import Path
from typing import Any

# Files up to this size enter the fingerprint whole; of larger ones the ends and 64 blocks between do.
HASHED_WHOLE = 256 << 20


def folder_fingerprint(folder: Path) -> str:
    """sha256 over the config, tokenizer and weight files of a folder (large files: size, both ends, 64 blocks)."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".model", ".bin", ".py"}):
        digest.update(f"{path.name}:{path.stat().st_size}:".encode())
        _add(path, digest)
    return digest.hexdigest()


def file_fingerprint(path: Path) -> str:
    """sha256 over the size and content of one file (of a large one both ends and 64 blocks), whatever its name."""
    digest = hashlib.sha256(f"{path.stat().st_size}:".encode())
    _add(path, digest)
    return digest.hexdigest()


def _add(path: Path, digest: Any) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= HASHED_WHOLE:
            digest.update(file.read())
            return
        for block in range(65):
            file.seek((size - (1 << 16)) * block // 64)
            digest.update(file.read(1 << 16))
