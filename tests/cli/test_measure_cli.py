"""`sinkctl measure` on the command line."""

import json
import shutil

import pytest
from places import DATA

QUICK = ("--samples", "4", "--no-cost")


def test_help_says_what_it_does_without_loading_torch(sinkctl):
    code, out, _ = sinkctl("measure", "--help")
    assert code == 0
    assert "without a T×T map" in " ".join(out.replace("│", " ").split())


def test_the_report_says_whether_there_is_a_sink(sinkctl):
    code, out, _ = sinkctl("measure", *QUICK)
    assert code == 0
    assert "of heads sink on “<|bos|>”" in " ".join(out.split())
    assert "natural, no BOS" in out


def test_json_is_the_result_and_thresholds_are_in_percent(sinkctl):
    code, out, err = sinkctl("measure", *QUICK, "--json", "--fail-on", "sink_rate>=50", "--epsilon", "0.3")
    assert code == 0
    assert "holds: sink_rate>=50" in err
    found = json.loads(out)
    assert 60 < next(m for m in found["measurements"] if m["name"] == "sink_rate")["value"] < 90
    code, _, err = sinkctl("measure", *QUICK, "--quiet", "--fail-on", "sink_rate<=5")
    assert code == 1
    assert "sink_rate is 7" in err


def test_a_run_folder_holds_everything_and_its_recipe_runs_again(sinkctl, tmp_path):
    kept = tmp_path / "kept"
    code, _, _ = sinkctl("measure", *QUICK, "--bos", "auto", "-o", kept, "--plots", "svg")
    assert code == 0
    held = {path.name for path in kept.iterdir()}
    assert held == {"recipe.yaml", "result.json", "env.json", "report.html", "arrays.safetensors", "plots"}
    assert "<script" not in (kept / "report.html").read_text()
    assert list((kept / "plots").glob("alpha*.svg"))
    code, out, _ = sinkctl("measure", "--recipe", kept / "recipe.yaml", "--json")
    again, first = json.loads(out), json.loads((kept / "result.json").read_text())
    assert (
        again["measure"]["checkpoints"][0]["inputs"][0]["sinks"]
        == first["measure"]["checkpoints"][0]["inputs"][0]["sinks"]
    )


def test_checkpoints_of_a_training_run_come_by_their_step(sinkctl, tmp_path):
    for step in (200, 1000):
        shutil.copytree(DATA / "stories260K", tmp_path / "run" / f"checkpoint-{step}")
    code, out, _ = sinkctl("measure", tmp_path / "run", *QUICK, "--json")
    assert code == 0
    assert [c["step"] for c in json.loads(out)["measure"]["checkpoints"]] == [200, 1000]


def test_a_dry_run_loads_nothing(sinkctl):
    code, out, err = sinkctl("measure", "nobody/nothing", "--dry-run", "--only", "attention")
    assert code == 0
    assert "task: measure" in out
    assert "nobody/nothing" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--fail-on", "sinkrate<=5"), 2, "did you mean 'sink_rate'"),
        (("--plots", "png"), 2, "--output"),
        (("--plots", "gif", "-o", "x"), 2, "png or svg"),
        (("--text", "nowhere.txt"), 3, "no such file"),
        (("nowhere/",), 3, "no such folder"),
        (("--samples", "0"), 2, "greater than or equal to 1"),
        (("--input", "noise"), 2, "natural"),
        (("--recipe", "stream/book"), 2, "a recipe of `sinkctl stream`"),
        (("demo", "demo"), 2, "named twice"),
        (("demo", "--revision", "a", "--revision", "b"), 2, "Hub id"),
        (("-m", "demo", "demo"), 2, "leave one out"),
        (("--set", "inputs.samples=3"), 2, "did you mean 'input'"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(sinkctl, arguments, code, words):
    found, _, err = sinkctl("measure", *arguments)
    assert found == code
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_ctrl_c_prints_and_keeps_what_was_measured_and_the_run_goes_on(sinkctl, tmp_path, monkeypatch):
    # Asked before each of 12 blocks, in the probe's two passes and in two batches, and at the end of these.
    kept, asked = tmp_path / "kept", iter([False] * (2 * 12 + 2 * 13) + [True])
    with monkeypatch.context() as pressed:
        pressed.setattr("sinkctl.cli.stopping.Stopping.asked", lambda _: next(asked))
        code, out, err = sinkctl("measure", *QUICK, "--batch", "2", "-o", kept)
    assert code == 130
    assert "Incomplete" in out
    assert "natural, BOS" in out
    assert "natural, no BOS" not in out
    assert "so far: natural, BOS" in err
    assert f"--resume {kept}" in " ".join(err.split())
    assert json.loads((kept / "result.json").read_text())["complete"] is False
    assert "Incomplete" in (kept / "report.html").read_text()
    code, out, _ = sinkctl("measure", "--resume", kept)
    assert code == 0
    assert "natural, no BOS" in out
    assert json.loads((kept / "result.json").read_text())["complete"] is True


def test_a_budget_that_is_no_time_is_refused_by_its_flag(sinkctl):
    code, _, err = sinkctl("measure", "--budget", "soon")
    assert code == 2
    assert "--budget" in err
