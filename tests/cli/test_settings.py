"""A settings file: what is said neither by a flag nor by a recipe comes from it, and the result says so."""

import json

import pytest


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Write the settings file of this test."""
    path = tmp_path / "settings.yaml"
    monkeypatch.setenv("SINKCTL_SETTINGS", str(path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("It was a dark and stormy night. " * 4)
    (tmp_path / "r.yaml").write_text("task: stream\ntext: {files: [a.txt]}\nmodel: {dtype: float32}\n")
    return lambda text: path.write_text(text) and path


@pytest.mark.parametrize(("words", "dtype", "used"), [
    (("a.txt",), "float64", {"device", "dtype"}),
    (("-r", "r.yaml"), "float32", {"device"}),
    (("-r", "r.yaml", "--dtype", "bfloat16", "--set", "model.device=cpu"), "bfloat16", set()),
])  # fmt: skip
def test_a_flag_goes_before_a_recipe_before_the_settings_and_the_result_says_what_came_from_them(
    settings, sinkctl, words, dtype, used
):
    path = settings("device: cpu\ndtype: float64\n")
    code, out, said = sinkctl("stream", *words, "--json", "-q")
    assert code == 0, said
    result = json.loads(out)
    assert result["recipe"]["model"]["dtype"] == dtype
    assert set(result["settings"]) == used
    if "dtype" in used:
        assert result["settings"]["dtype"] == f"float64, from {path}:2"


def test_runs_are_kept_in_the_folder_that_is_set_and_a_resumed_one_where_it_was(settings, sinkctl, tmp_path):
    settings(f"output: {tmp_path / 'runs'}\n")
    assert [sinkctl("stream", "a.txt", "-q")[0] for _ in range(2)] == [0, 0]
    first, second = sorted((tmp_path / "runs").iterdir())
    assert first.name.startswith("stream-")
    assert (second / "result.json").exists()
    assert sinkctl("stream", "a.txt", "-q", "-o", "here")[0] == 0
    assert sinkctl("stream", "a.txt", "-q", "--dry-run")[0] == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_suite_names_its_own_model(settings, sinkctl):
    settings("model: /nowhere\n")
    assert sinkctl("bench", "ci", "--dry-run")[0] == 0
    assert sinkctl("measure", "demo", "--dry-run")[0] == 0
    code, _, said = sinkctl("stream", "a.txt", "--dry-run")
    assert (code, "/nowhere" in said) == (3, True)


@pytest.mark.parametrize(("text", "problem"), [
    ("device: cpu\ndtyp: float32\n", ":2: no such setting 'dtyp'; did you mean 'dtype'?"),
    ("dtype: float33\n", ":1: dtype float33: input should be 'auto', 'float32'"),
    ("device: [cpu]\n", ":1: device: auto, cpu, mps, cuda, cuda:N (given: ['cpu'])"),
    ("- cpu\n", ": a settings file is a mapping, such as `device: cpu`"),
    ("device: 'cpu\n", ": "),
])  # fmt: skip
def test_what_is_wrong_in_it_is_said_in_one_line_with_its_place(settings, sinkctl, text, problem):
    path = settings(text)
    code, _, said = sinkctl("stream", "a.txt", "-q")
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"sinkctl: {path}{problem}")


def test_where_the_file_is_and_what_it_sets_can_be_asked(settings, sinkctl, monkeypatch):
    path = settings("device: cpu\n")
    said = sinkctl("settings")[1]
    assert said.startswith(f"{path}\n  device: cpu\n")
    assert "offload-folder: " in said
    path.unlink()
    assert sinkctl("settings")[2].startswith(f"sinkctl: SINKCTL_SETTINGS={path}: No such file")
    monkeypatch.setenv("SINKCTL_SETTINGS", "off")
    assert sinkctl("settings")[1] == "SINKCTL_SETTINGS=off: no settings file is read\n"
    monkeypatch.delenv("SINKCTL_SETTINGS")
    monkeypatch.setenv("HOME", str(path.parent))
    assert sinkctl("settings")[1].startswith(f"{path.parent / '.config/sinkctl/settings.yaml'} (not there)")
