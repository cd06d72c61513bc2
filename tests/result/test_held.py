"""One process at a time works in a run folder."""

import errno
import os
import socket
import sys
from types import SimpleNamespace

import pytest

import sinkctl
from sinkctl.errors import Interrupted, ResumeError
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.result.store import LOCK, STATE, RunFolder, resumable
from sinkctl.tasks.finishing import begun


def test_a_second_run_never_begins_in_a_folder_where_one_has_no_checkpoint_yet(tmp_path):
    """Nor is the state to go on from read while the first may still change it."""
    tried, busy = [], f"{tmp_path}: another process is at work in it; wait"

    def make(state):
        with pytest.raises(ResumeError, match=busy), begun(tried.append, tmp_path, resume=state is not None):
            pass
        return SimpleNamespace(recipe=StreamRecipe())

    for resume in (False, True):
        with begun(make, tmp_path, resume) as (_, _, folder):
            folder.save_state({"step": 1}, {})
            assert (tmp_path / STATE / LOCK).exists()
        assert not (tmp_path / STATE / LOCK).exists()
    assert not tried
    RunFolder(tmp_path).drop_state()
    with pytest.raises(ResumeError, match="holds no checkpoint"), begun(make, tmp_path / "wrong", resume=True):
        pass
    assert not (tmp_path / "wrong").exists()
    assert not (tmp_path / STATE).exists()


FEW = {"rounds": 2, "warmup": 0, "seconds": 1e-4, "threads": 1}
RUNS = {
    "measure": lambda **how: sinkctl.measure(
        "demo", device="cpu", kinds=["random", "repeat"], samples=2, length=32, cost={"run": False}, **how
    ),
    "ask": lambda **how: sinkctl.ask(
        "lines", model="demo", policies="4+60", lines={"count": 4, "every": 2, "back": [1]}, **how
    ),
    "bench": lambda **how: sinkctl.bench(
        "ci", shape="tiny", timing=FEW, fail_on=[], model={"device": "cpu"},
        cases=[{"kind": "stream", "windows": [12, 13], "chunks": [8], "peers": []}], **how,
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", RUNS)
def test_no_other_run_begins_or_goes_on_in_a_folder_while_one_is_at_work(task, in_this_process, tmp_path):
    run, out, asked = RUNS[task], tmp_path / "out", []
    again = {"measure": [{}, {"resume": True}], "ask": [{}], "bench": [{}, {"resume": True}]}[task]

    def meanwhile(*_) -> None:
        if not asked and (resumable(out) or (task == "ask" and (out / STATE).exists())):
            asked.append(task)
            for how in again:
                with pytest.raises(ResumeError, match=f"^{out}: another process is at work in it; wait"):
                    run(output=out, progress=print, **how)

    if task != "ask":  # which cannot be resumed
        with pytest.raises(Interrupted):
            run(output=out, progress=meanwhile, stop=lambda: bool(asked))
        assert asked.pop()
        assert not (out / STATE / LOCK).exists()
    run(output=out, progress=meanwhile, **again[-1])
    assert asked
    assert not (out / STATE).exists()


def test_states_go_while_a_file_that_is_open_cannot_be_removed(tmp_path, monkeypatch):
    """NFS renames it until it is closed: its folder is not empty. Windows refuses."""
    remove = os.unlink

    def unlink(path, **how):
        if os.path.basename(path) == LOCK:
            raise PermissionError(errno.EACCES, "in use")
        remove(path, **how)

    folder = RunFolder(tmp_path)
    with folder.held():
        folder.save_state({"step": 1}, {})
        monkeypatch.setattr(os, "unlink", unlink)
        folder.drop_state()
        assert [path.name for path in (tmp_path / STATE).iterdir()] == [LOCK]


@pytest.mark.skipif(sys.platform == "win32", reason="no flock there")
@pytest.mark.filterwarnings("error")
def test_without_locks_a_file_is_one_which_may_be_of_a_host_that_is_gone(tmp_path, monkeypatch):
    """Lustre without its flock option; other hosts' processes cannot be seen from here."""

    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    lock, folder = tmp_path / STATE / LOCK, RunFolder(tmp_path)
    with folder.held():
        lock.write_text(lock.read_text().replace(socket.gethostname(), "gone"))
        with pytest.raises(ResumeError, match=f"until that has ended, or, if none is, remove {lock}$"):
            folder.check_idle()
    lock.unlink(missing_ok=True)
    with folder.held():
        pass
