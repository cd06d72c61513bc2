"""A settings file: what is said neither by a flag nor by a recipe comes from it, and the result says so."""

import json
import shutil
from pathlib import Path

import pytest
from gguf_files import write_gguf

from sinkctl.cli.settings import applied, kept_in
from sinkctl.model.load import DEMO


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


def test_the_file_is_read_once_in_a_run_that_keeps_a_folder(settings, sinkctl, tmp_path, monkeypatch):
    path, read = settings(f"device: cpu\noutput: {tmp_path / 'runs'}\n"), []
    data = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (read.append(self), data(self))[1])
    assert sinkctl("stream", "a.txt", "-q")[0] == 0
    assert read.count(path) == 1
    path.write_text("device: gpu\n")  # each command reads it anew
    assert sinkctl("stream", "a.txt", "-q")[0] == 2


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
    ("device: 'cpu\n", ":2: found unexpected end of stream"),
    ("It was: a dark: night\n", ":1: mapping values are not allowed here"),
    ("3: cpu\n", ":1: no such setting '3'; one of model, device"),
    ("device: cpu\nnull: a\n", ":2: no such setting 'null'"),
    ("[]\n", ": a settings file is a mapping"),
    ("false\n", ": a settings file is a mapping"),
    ("output: ''\n", ":1: output: a folder that runs without --output are kept in"),
    ("max-memory: {cpu: abc}\n", ":1: max-memory abc: With device_map, what each may take: {0: 20GiB"),
    ("max-memory: {gpu: 3GiB}\n", ":1: max-memory gpu: With device_map, what each may take: {0: 20GiB"),
])  # fmt: skip
def test_what_is_wrong_in_it_is_said_in_one_line_with_its_place(settings, sinkctl, text, problem):
    path = settings(text)
    for words in (("stream", "a.txt", "-q"), ("settings",)):
        code, out, said = sinkctl(*words)
        assert (code, out, said.count("\n")) == (2, "", 1)
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
    monkeypatch.setenv("HOME", str(path.parent))
    monkeypatch.setenv("SINKCTL_SETTINGS", "")  # as a shell leaves it: not set
    assert sinkctl("settings")[1].startswith(f"{path.parent / '.config/sinkctl/settings.yaml'} (not there)")


def test_of_runs_that_begin_at_once_each_has_a_folder_and_one_that_is_refused_leaves_none(settings, sinkctl, tmp_path):
    settings(f"output: {tmp_path / 'runs'}\n")
    with applied():
        one, two = (kept_in(None, None, "stream") for _ in range(2))
        assert one != two
        (one / "result.json").write_text("{}")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [one.name]
    (one / "result.json").unlink()
    one.rmdir()
    (tmp_path / "runs").rmdir()
    assert sinkctl("stream", "missing.txt")[0] == 3
    assert not (tmp_path / "runs").exists()


TURNS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}you:{% endif %}"
)


def test_a_chat_keeps_no_folder_and_overwrite_wants_one_that_is_named(settings, sinkctl, tmp_path):
    settings(f"output: {tmp_path / 'runs'}\n")
    talker = shutil.copytree(DEMO, tmp_path / "talker")
    config = json.loads((talker / "tokenizer_config.json").read_text())
    (talker / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TURNS}))
    code, out, said = sinkctl("chat", "-m", talker, "--set", "tokens=4", "-q", stdin=b"Hello.\n")
    assert (code, bool(out.strip())) == (0, True), said
    code, _, said = sinkctl("stream", "a.txt", "--overwrite")
    assert (code, said) == (2, "sinkctl: --overwrite: name the run folder to be replaced with --output\n")
    assert not (tmp_path / "runs").exists()


MAP = "device-map: auto\nmax-memory: {cpu: 1GiB}\noffload-folder: .\n"


@pytest.mark.parametrize(("text", "words"), [
    (MAP, ("convert", "--to", "sink_logit")),
    (MAP, ("bench", "ci")),
    (MAP, ("stream", "a.txt", "--device", "cpu")),
    (MAP, ("measure", "small.gguf")),
    (MAP + "model: small.gguf\n", ("stream", "a.txt")),
    ("max-memory: {cpu: 1GiB}\noffload-folder: .\n", ("stream", "a.txt")),
])  # fmt: skip
def test_a_device_map_is_left_out_where_a_command_or_a_flag_goes_against_it(settings, sinkctl, tmp_path, text, words):
    write_gguf(tmp_path / "small.gguf")
    settings(text)
    code, out, said = sinkctl(*words, "--dry-run")
    assert code == 0, said
    assert "1GiB" not in out


def test_what_two_settings_make_impossible_is_said_with_their_places(settings, sinkctl):
    path = settings("device: cuda:0\ndevice-map: auto\n")
    code, _, said = sinkctl("stream", "a.txt")
    assert code == 2
    assert said.startswith("sinkctl: --device-map auto: --device cuda:0 is one GPU")
    assert said.endswith(f"(device: cuda:0, from {path}:1; device-map: auto, from {path}:2)\n")
    assert sinkctl("stream", "a.txt", "--device-map", "auto", "--dry-run")[0] == 0


@pytest.mark.parametrize("words", [
    ("stream", "a.txt", "--chunk", "8"), ("generate", "It was", "-n", "20"),
])  # fmt: skip
def test_a_resumed_run_still_says_what_came_from_the_settings(settings, sinkctl, tmp_path, monkeypatch, words):
    path = settings("device: cpu\ndtype: float64\n")
    asked = iter([False] * 3)
    with monkeypatch.context() as pressed:
        pressed.setattr("sinkctl.cli.stopping.Stopping.asked", lambda _: next(asked, True))
        assert sinkctl(*words, "-o", "kept", "-q")[0] == 130
    monkeypatch.setenv("SINKCTL_SETTINGS", "off")
    code, _, said = sinkctl("stream", "--resume", "kept", "-q")
    assert code == 0, said
    settings = json.loads((tmp_path / "kept/result.json").read_text())["settings"]
    assert settings == {"device": f"cpu, from {path}:1", "dtype": f"float64, from {path}:2"}
