"""Another version beside the running one, from a throw-away repository with a miniature sinkctl."""

import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from sinkctl.errors import SinkctlError, UsageError
from sinkctl.result.source import source
from sinkctl.tasks.bench.against import WORKER, checkout

PROJECT = """
[build-system]
requires = []
build-backend = "build_it"
backend-path = ["."]

[project]
name = "sinkctl"
version = "0"
dependencies = [{}]
"""


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", root, *identity, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path) -> Path:
    """Three commits: without a benchmark (tagged `old`), with one (`v1`), and what runs now."""
    root = tmp_path / "repo"
    package = root / "sinkctl"
    package.mkdir(parents=True)
    git(tmp_path, "init", "-q", root)

    def commit(version: str) -> None:
        (package / "__init__.py").write_text(f"VERSION = {version!r}\n")
        git(root, "add", ".")
        git(root, "commit", "-q", "-m", version)
        git(root, "tag", version)

    (root / "pyproject.toml").write_text(PROJECT.format('"numpy"'))
    (root / ".gitignore").write_text(".venv/\n")
    commit("old")
    worker = root / WORKER
    worker.parent.mkdir(parents=True)
    for folder in (worker.parent.parent, worker.parent):
        (folder / "__init__.py").touch()
    worker.write_text("import numpy, sinkctl\n\nprint(sinkctl.VERSION, numpy.__file__)\n")
    commit("v1")
    commit("now")
    return root


def assert_nothing_is_left(root: Path, version) -> None:
    assert len(git(root, "worktree", "list").splitlines()) == 1
    assert git(root, "status", "--porcelain") == ""
    assert not version.python.exists()


def test_the_named_version_runs_on_the_running_packages_wherever_it_is_started(repository, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.syspath_prepend(str(repository))
    with checkout("v1", repository) as version:
        assert version.commit == git(repository, "rev-parse", "v1").strip()
        command = [version.python, "-P", "-m", "sinkctl.tasks.bench.worker"]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
        assert done.stdout.split() == ["v1", numpy.__file__], done.stderr
    assert_nothing_is_left(repository, version)


def test_it_is_removed_when_the_run_is_interrupted(repository):
    with pytest.raises(KeyboardInterrupt), checkout("now~1", repository) as version:
        raise KeyboardInterrupt
    assert_nothing_is_left(repository, version)


def test_what_cannot_be_run_is_refused_in_one_line(repository, tmp_path):
    installed = repository / ".venv" / "site-packages"
    (installed / "sinkctl").mkdir(parents=True)
    (installed / "sinkctl" / "__init__.py").touch()
    wrong = {
        ("old", repository): (SinkctlError, "has no `sinkctl bench`; name a later commit"),
        ("v7", repository): (UsageError, "no such commit, branch or tag"),
        ("--all", repository): (UsageError, "no such commit, branch or tag"),
        ("v1", tmp_path): (UsageError, "no git checkout"),
        ("v1", installed): (UsageError, "no git checkout"),  # below one, but no part of it
    }
    for (ref, root), (kind, words) in wrong.items():
        with pytest.raises(kind, match=words) as error, checkout(ref, root):
            pass
        assert type(error.value) is kind
        assert "\n" not in str(error.value)


def test_a_shallow_clone_is_named_as_the_cause(repository, tmp_path):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "2", repository.as_uri(), clone)
    for ref in ("main", "HEAD~2", "0" * 40):
        cause = pytest.raises(UsageError, match=r"shallow \(depth 2\).*git fetch --unshallow.*fetch-depth: 0")
        with cause as error, checkout(ref, clone):
            pass
        assert "\n" not in str(error.value)
    with checkout("HEAD~1", clone) as version:
        assert version.commit == git(repository, "rev-parse", "v1").strip()


def test_other_dependencies_are_installed_and_that_is_said(repository, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (repository / "pyproject.toml").write_text(PROJECT.format('"numpy", "no-such-package"'))
    git(repository, "commit", "-q", "-a", "-m", "other dependencies")
    git(repository, "tag", "other")
    git(repository, "reset", "-q", "--hard", "now")
    said = []
    wrong = pytest.raises(SinkctlError, match=r"^other cannot be installed: ")
    with wrong as error, checkout("other", repository, said.append):
        pass
    assert "\n" not in str(error.value)
    assert said == ["other depends on other packages: installing them for the time of this run"]
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_the_source_of_a_run_is_its_commit_and_whether_anything_differs(repository, tmp_path):
    head = git(repository, "rev-parse", "HEAD").strip()
    assert source(repository) == {"commit": head, "dirty": False}
    (repository / "sinkctl" / "new.py").touch()
    assert source(repository) == {"commit": head, "dirty": True}
    assert source(tmp_path) is None


def test_without_git_there_is_no_source_and_no_other_version(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert source(repository) is None
    with pytest.raises(UsageError, match="no git checkout"), checkout("v1", repository):
        pass
