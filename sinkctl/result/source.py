"""The git checkout that sinkctl runs from, if it runs from one."""

import os
import subprocess
from pathlib import Path
from typing import Any

import sinkctl

ROOT = Path(sinkctl.__file__).resolve().parent.parent
_A_HOOKS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")  # set inside a hook, for its own repository


def git(root: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """`git …` in `root`; OSError where there is no git."""
    environment = {name: value for name, value in os.environ.items() if name not in _A_HOOKS}
    return subprocess.run(
        ["git", "-C", root, *words], capture_output=True, text=True, env=environment, check=False,
        start_new_session=True,  # Ctrl-C is for who asks
    )  # fmt: skip


def is_checkout(root: Path = ROOT) -> bool:
    """Whether git tracks the package in `root`; one installed below a checkout (`.venv`) is not part of it."""
    try:
        return git(root, "ls-files", "--error-unmatch", "sinkctl/__init__.py").returncode == 0
    except OSError:
        return False


def source(root: Path = ROOT) -> dict[str, Any] | None:
    """Commit and whether anything differs from it; None where sinkctl runs from no checkout."""
    if not is_checkout(root):
        return None
    head = git(root, "rev-parse", "--verify", "HEAD")
    changed = git(root, "--no-optional-locks", "status", "--porcelain")
    return {"commit": head.stdout.strip() or None, "dirty": bool(changed.stdout.strip())}
