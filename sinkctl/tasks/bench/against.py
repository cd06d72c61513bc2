"""Another version of sinkctl, ready to run: its commit in a git worktree, with a Python of its own."""

import os
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sinkctl.errors import SinkctlError, UsageError
from sinkctl.result.source import ROOT, git, is_checkout

WORKER = "sinkctl/tasks/bench/worker.py"


@dataclass(frozen=True)
class Version:
    """`python -P -m sinkctl…` runs the sinkctl of `commit`, whatever PYTHONPATH says."""

    python: Path
    commit: str  # the full hash


@contextmanager
def checkout(ref: str, root: Path = ROOT, told: Callable[[str], None] = lambda words: None) -> Iterator[Version]:
    """The sinkctl of `ref`, a commit, branch or tag of the git checkout `root`; removed afterwards.

    Nothing is installed where `ref` depends on what the running version does: it runs on the same packages. `told`
    hears when something is. UsageError: no checkout, no such ref; SinkctlError: a version that cannot be benchmarked.
    """
    commit = _commit(ref, root)
    with tempfile.TemporaryDirectory(prefix="sinkctl-") as folder:
        tree = Path(folder).resolve() / "source"
        home = tree.with_name("python")
        version = Version(_python(home), commit)
        try:
            _done(git(root, "worktree", "add", "--detach", tree, commit), f"{ref} cannot be checked out")
            if _dependencies(tree) == _dependencies(root):
                venv.create(home, symlinks=os.name != "nt")
                _finds(
                    home, tree, [entry for entry in map(Path, sys.path) if entry.is_dir() and not entry.samefile(root)]
                )
            else:
                told(f"{ref} depends on other packages: installing them for the time of this run")
                _install(home, tree, ref)
                _finds(home, tree, [])
            _check_found(version, tree)
            yield version
        finally:
            git(root, "worktree", "remove", "--force", tree)


def _commit(ref: str, root: Path) -> str:
    if not is_checkout(root):
        raise UsageError(
            f"--against {ref}: sinkctl runs from {root}, which is no git checkout of it; "
            "clone the repository, or compare with a saved baseline"
        )
    found = git(root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if found.returncode:
        raise UsageError(f"--against {ref}: no such commit, branch or tag in {root}{_shallow(root)}")
    commit = found.stdout.strip()
    if git(root, "cat-file", "-e", f"{commit}:{WORKER}").returncode:
        raise SinkctlError(f"{ref} ({commit[:10]}) has no `sinkctl bench`; name a later commit")
    return commit


def _shallow(root: Path) -> str:
    """Of a clone that holds only the last commits, that it does, and how to get the others."""
    if git(root, "rev-parse", "--is-shallow-repository").stdout.strip() != "true":
        return ""
    depth = git(root, "rev-list", "--count", "--first-parent", "HEAD").stdout.strip()
    return (
        f": this clone is shallow (depth {depth}), so it may be missing here alone; "
        "git fetch --unshallow, or fetch-depth: 0 in actions/checkout"
    )


def _dependencies(root: Path) -> list[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sorted(project.get("dependencies", []))


def _finds(home: Path, tree: Path, folders: list[Path]) -> None:
    """Let the Python in `home` find `tree` before anything else, and `folders` last.

    Of folders named in a .pth file Python reads no .pth files in turn, so an editable install of what runs now stays
    out; a path so named comes after PYTHONPATH, which is why `tree` is put in front by hand.
    """
    lines = [f"import sys; sys.path.insert(0, {str(tree)!r})", *(str(folder.resolve()) for folder in folders)]
    where = sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)})
    (Path(where) / "sinkctl-version.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _install(home: Path, tree: Path, ref: str) -> None:
    for words in (
        [sys.executable, "-I", "-m", "venv", home],
        [_python(home), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", tree],
    ):
        _done(_ran(*words), f"{ref} cannot be installed")


def _python(home: Path) -> Path:
    scripts = sysconfig.get_path("scripts", "venv", {"base": str(home)})
    return Path(scripts) / ("python.exe" if os.name == "nt" else "python")


def _check_found(version: Version, tree: Path) -> None:
    """Comparing a version with itself would find no regression, ever."""
    found = _ran(version.python, "-P", "-c", "import sinkctl; print(sinkctl.__file__)")
    _done(found, f"{version.commit[:10]} does not start")
    if not Path(found.stdout.strip()).resolve().is_relative_to(tree):
        raise SinkctlError(f"{version.commit[:10]}: its Python finds sinkctl in {found.stdout.strip()} instead")


def _ran(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, start_new_session=True)


def _done(done: subprocess.CompletedProcess[str], what: str) -> None:
    """SinkctlError with the last line that a command wrote, if it failed."""
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise SinkctlError(f"{what}: {lines[-1] if lines else f'exit {done.returncode}'}")
