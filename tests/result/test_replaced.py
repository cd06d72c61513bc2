"""`--overwrite`: the old run or the new one, and never a folder of anybody else."""

import errno
from contextlib import ExitStack

import pytest
import torch
from safetensors import SafetensorError

from sinkctl.errors import Interrupted, ResumeError, UsageError
from sinkctl.result.replaced import check_replaceable, replacing
from sinkctl.result.store import CHECKPOINT, STATE, RunFolder


def kept(path, task="stream", said="old", state=False):
    folder = RunFolder.create(path)
    folder.write_recipe({"task": task})
    if state:
        folder.save_state({"step": 1}, {})
    else:
        folder.write_text("result.json", said)
    return path


@pytest.mark.parametrize("state", [False, True])
def test_a_finished_run_takes_the_place_of_an_old_one(tmp_path, state):
    run = kept(tmp_path / "run", state=state)
    (run / "arrays.npy").touch()
    with replacing(run, "stream"):
        assert not run.exists()
        kept(run, said="new")
    assert (run / "result.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (run / "arrays.npy").exists()


def test_a_run_that_fails_leaves_the_old_one_and_one_that_can_be_resumed_does_not(tmp_path):
    run = kept(tmp_path / "run")

    def ends(error, state):
        with replacing(run, "stream"):
            if state:
                kept(run, state=True)
            raise error("stopped")

    for error, state in ((ValueError, True), (ValueError, False), (Interrupted, False)):
        with pytest.raises(error):
            ends(error, state)
        assert (run / "result.json").read_text() == "old"
    with pytest.raises(Interrupted):
        ends(Interrupted, True)
    assert (run / "state/state.json").exists()
    assert not (run / "result.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_killed_process_put_aside_comes_back(tmp_path):
    kept(tmp_path / ".run.replaced")
    run = kept(tmp_path / "run", state=True)
    with pytest.raises(ValueError), replacing(run, "stream"):  # noqa: PT011
        raise ValueError
    assert (run / "result.json").read_text() == "old"


def test_no_other_folder_is_replaced(tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "result.json").write_text("{}")
    for path, message in (
        (foreign, "is no run folder of sinkctl"),
        (kept(tmp_path / "c", "convert"), "run of convert"),
    ):
        with pytest.raises(UsageError, match=message):
            check_replaceable(path, "stream")
        with pytest.raises(UsageError, match=message), replacing(path, "stream"):
            raise AssertionError
        assert (path / "result.json").exists()
    check_replaceable(tmp_path / "new", "stream")


def test_a_run_that_is_at_work_is_not_replaced(tmp_path):
    run = kept(tmp_path / "run", state=True)
    with (
        RunFolder(run).held(),
        pytest.raises(ResumeError, match="another process is at work"),
        replacing(run, "stream"),
    ):
        pass
    with replacing(run, "stream"):
        assert not run.exists()


@pytest.mark.parametrize("error", [UsageError, Interrupted])
def test_a_run_that_began_in_the_free_folder_meanwhile_stays_and_the_old_one_is_kept(error, tmp_path):
    """While the model of the first one loads, which then fails: a second --overwrite, say."""
    run, aside = kept(tmp_path / "run"), tmp_path / ".run.replaced"

    def first(holding):
        with replacing(run, "stream"):
            folder = RunFolder.create(run, holding)
            folder.write_recipe({"task": "stream"})
            folder.save_state({"step": 1}, {})
            raise error("no such model")

    with ExitStack() as holding:
        with pytest.raises(error, match=f"^no such model; another run is at work in {run} by now: .* in {aside}$"):
            first(holding)
        assert (run / "state/state.json").exists()
        assert (aside / "result.json").read_text() == "old"
    with pytest.raises(ValueError), replacing(run, "stream"):  # noqa: PT011
        raise ValueError
    assert (run / "result.json").read_text() == "old"


def test_a_full_disk_is_an_error_of_the_disk_whoever_writes(tmp_path, monkeypatch):
    def full(tensors, path):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    folder = RunFolder(tmp_path)
    with pytest.raises(OSError, match=r"cannot be written \(I/O error: No space left on device") as raised:
        folder.save_state({"step": 3}, {"x": torch.zeros(2)})
    assert raised.value.errno == errno.ENOSPC
    assert not (tmp_path / STATE / CHECKPOINT).exists()
