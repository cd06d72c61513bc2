"""Only what sinkctl put into its cache goes: no file of the user's, and no work folder of a process that runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sinkctl.model.kept import TAG, cache_folder, cache_size, work_folder

RUNS = """
import sys
from sinkctl.model.kept import work_folder
with work_folder(0, []) as work:
    (work / "weights").write_bytes(bytes(1 << 21))
    print(work, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder of the user's that SINKCTL_CACHE names, with folders called as sinkctl calls its own."""
    for name in ("gguf", "work-in-progress", "sinkctl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    monkeypatch.setenv("SINKCTL_CACHE", str(tmp_path))
    return tmp_path


def mine(place: Path) -> list[str]:
    return sorted(path.parent.name for path in place.glob("*/mine"))


def running() -> tuple[subprocess.Popen, Path]:
    started = subprocess.Popen([sys.executable, "-c", RUNS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return started, Path(started.stdout.readline().strip())


def test_the_users_own_folders_stay(sinkctl, place):
    with work_folder(0, notes := []) as work:
        assert work.parent == place / "sinkctl-cache"
    assert notes == []
    assert (place / "sinkctl-cache" / TAG).read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    code, out, err = sinkctl("doctor", "--clear-cache")
    assert (code, err) == (0, "")
    assert out.endswith("sinkctl-cache: 0 MiB removed\n")
    assert mine(place) == ["gguf", "sinkctl", "work-in-progress"]


def test_a_folder_that_sinkctl_did_not_make_is_neither_used_nor_cleared(sinkctl, place):
    folder = place / "sinkctl-cache"
    (folder / "gguf").mkdir(parents=True)
    (folder / "gguf/mine").write_text("mine")
    with work_folder(0, notes := []) as work:
        assert place not in work.parents
    assert notes == [
        f"Nothing is kept for the next time: {folder}: holds gguf, which sinkctl did not put there; "
        "SINKCTL_CACHE names another folder."
    ]
    code, _, err = sinkctl("doctor", "--clear-cache")
    assert code == 2
    assert err == f"sinkctl: {folder}: no {TAG} of sinkctl's is in it, so nothing is removed; remove it by hand\n"
    assert (folder / "gguf/mine").exists()


def test_the_work_of_a_running_process_stays_and_that_of_a_killed_one_goes(sinkctl, place):
    first, killed = running()
    second, works = running()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert killed.exists()
    with work_folder(0, []):  # the next load takes it away
        assert not killed.exists()
        assert (works / "weights").exists()
    code, out, _ = sinkctl("doctor", "--clear-cache")
    assert code == 0
    assert out.endswith("0 MiB removed; 2 MiB are in use by a run\n")
    second.communicate("")
    assert second.returncode == 0
    assert not works.exists()
    third, killed = running()
    third.send_signal(signal.SIGKILL)
    third.wait()
    assert sinkctl("doctor", "--clear-cache")[1].endswith("2 MiB removed\n")
    assert not killed.exists()


def test_links_are_taken_away_and_not_what_they_lead_to(sinkctl, place, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (place / "sinkctl-cache").symlink_to(elsewhere)  # on a larger disk, say
    with work_folder(0, []) as work:
        assert work.exists()
    (elsewhere / "gguf").symlink_to(place / "gguf")
    (elsewhere / "work-linked").symlink_to(place / "work-in-progress")
    assert cache_size(cache_folder()) == 0
    code, _, err = sinkctl("doctor", "--clear-cache")
    assert (code, err) == (0, "")
    assert sorted(os.listdir(elsewhere)) == [TAG, "lock"]
    assert mine(place) == ["gguf", "sinkctl", "work-in-progress"]
