"""One process at a time works in a run folder."""

import errno
import os
from types import SimpleNamespace

import pytest

from sinkctl.errors import ResumeError
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.result.store import LOCK, STATE, RunFolder
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
