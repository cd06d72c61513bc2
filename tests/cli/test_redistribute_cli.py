"""`--redistribute` and what goes with it: what runs, what the result says, what is refused."""

import json

import pytest
import yaml

LABEL = "4+60, 0.5 redistributed"


def test_a_share_runs_beside_the_policy_as_it_is(sinkctl):
    flags = ["-p", "4+60", "-p", "0+60", "-p", "dense", "--redistribute", 0.5, "--redistribute", 1]
    code, out, err = sinkctl("stream", *flags, "--limit", 250, "--json")
    assert code == 0, err
    result = json.loads(out)
    scores = {score["label"]: score for score in result["stream"]["policies"]}
    dense = ["dense", "dense, 0.5 redistributed", "dense, 1 redistributed"]
    assert list(scores) == ["4+60", LABEL, "4+60, 1 redistributed", "0+60", *dense]
    assert len({score["perplexity"] for score in scores.values()}) == 7
    cost = next(line for line in result["verdict"] if line.startswith(f"{LABEL}: "))
    assert f"{scores[LABEL]['perplexity']:.2f} against {scores['4+60']['perplexity']:.2f} without." in cost
    assert any("0.5 of the first token's attention redistributed in all heads" in x for x in result["model"]["layers"])
    assert "redistributed: plain torch" in result["choices"]["stream_attention"]


def test_generation_and_questions_redistribute_and_say_so(sinkctl):
    flags = ["-W", 60, "--redistribute", 0.5, "--redistribute-heads", "3.0,7.1", "--json"]
    code, out, err = sinkctl("stream", "-g", 8, "--prompt", "It was", *flags)
    assert code == 0, err
    result = json.loads(out)
    assert result["generate"]["policy"] == f"{LABEL} in heads 3.0 7.1"
    assert "redistributed: " in result["choices"]["decode_attention"]
    code, out, err = sinkctl("stream", "--questions", "lines", "--set", "lines.count=30", *flags)
    assert code == 0, err
    assert [p["label"] for p in json.loads(out)["questions"]["policies"]] == ["4+60", f"{LABEL} in heads 3.0 7.1"]


def test_a_plan_calibrates_nothing_and_says_how_it_would(sinkctl, monkeypatch):
    monkeypatch.setattr("sinkctl.tasks.stream.calibration._Losses", None)
    flags = ["-p", "4+60", "--redistribute", 0.5, "--redistribute-heads", "calibrate", "--limit", 900]
    code, plan, err = sinkctl("stream", "--dry-run", *flags)
    assert code == 0, err
    assert [p["redistribute"] and p["redistribute"]["heads"] for p in yaml.safe_load(plan)["policies"]] == [
        None, "calibrate", "random",
    ]  # fmt: skip
    said = "found when it runs, one head after the other, on 8 samples of 256 tokens of the built-in text"
    assert f"heads of {LABEL} in calibrated heads: {said}" in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--redistribute 0", "--redistribute 0: input should be greater than 0"),
        ("--redistribute 1.5", "--redistribute 1.5: input should be less than or equal to 1"),
        ("--redistribute half", "--redistribute half: input should be a valid number"),
        ("--redistribute 0.5 -p 0+60", "--redistribute 0.5: no policy keeps the first token at full precision"),
        ("--redistribute 0.5 -p recompute:4+60", "--redistribute 0.5: no policy keeps the first token"),
        ("--redistribute 0.5 --kv 4bit", "--redistribute 0.5: no policy keeps the first token at full precision"),
        ("--redistribute 0.5 -p heavy_hitter:4+60", "--redistribute 0.5: no policy keeps the first token"),
        ("-g 5 --redistribute 0.5 -p heavy_hitter:4+60", "has no first token in view of every query"),
        ("-g 5 --redistribute 0.5 -p 0+60", "--redistribute 0.5: 0+60 has no first token in view of every query"),
        ("-g 5 --redistribute 0.5 --kv 4bit", "--redistribute 0.5: not with keys and values in few bits"),
        ("-g 5 --redistribute 0.5 --redistribute 0.7", "--redistribute 0.7: text is generated with one share"),
        ("-g 5 --redistribute 0.5 --redistribute-heads calibrate", "--redistribute-heads calibrate: heads are"),
        ("--redistribute-heads all", "--redistribute-heads all: nothing is redistributed; give --redistribute SHARE"),
        ("--redistribute 0.5 --redistribute-heads 3", "--redistribute-heads 3: all, calibrate, or LAYER.HEAD"),
        ("--redistribute 0.5 --redistribute-heads 12.0", "--redistribute-heads 12.0: no such head; layers are 0 to 11"),
        ("--redistribute 0.5 --redistribute-heads calibrate", "the built-in text would be calibrated on and scored"),
        ("--redistribute 0.5 --redistribute-text a.txt", "--redistribute-text a.txt: no heads are calibrated"),
        (
            "page.txt --redistribute 0.5 --redistribute-heads calibrate --redistribute-text page.txt",
            "--redistribute-text page.txt: is scored as well; give another text",
        ),
        (
            "page.txt --redistribute 0.5 --redistribute-heads calibrate --redistribute-text none.txt",
            "none.txt: no such file",
        ),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_flag(sinkctl, monkeypatch, tmp_path, flags, said):
    monkeypatch.setattr("sinkctl.model.load.load", None)  # nothing is loaded for it
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.txt").write_text("It was a dark night.", encoding="utf-8")
    code, out, err = sinkctl("stream", *flags.split())
    assert (code, out) == (3 if "none.txt" in said else 2, "")
    assert err.startswith("sinkctl: ")
    assert said in err
    assert err.count("\n") == 1
