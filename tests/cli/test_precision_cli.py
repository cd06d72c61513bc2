"""`--kv`, `--kv-keep` and `--kv-recent`: what runs, what the result says, what is refused."""

import json

import pytest
import yaml

import sinkctl as product

ROUNDED = ["--kv", "4bit", "--kv-recent", 20]


def test_a_policy_runs_at_every_precision_asked_for(sinkctl):
    flags = ["-p", "4+60", "--kv", "full", *ROUNDED, "--kv-keep", "none", "--kv-keep", "first:4"]
    code, out, err = sinkctl("stream", *flags, "--limit", 300, "--json")
    assert code == 0, err
    result = json.loads(out)
    scores = {score["label"]: score for score in result["stream"]["policies"]}
    in_full, rounded, kept = scores.values()
    label = "4+60, 4-bit KV, last 20 in full"
    assert list(scores) == ["4+60", label, f"{label}, first 4 kept"]
    assert kept["settings"]["precision"] == {"bits": 4, "keys": "channel", "group": 32, "recent": 20, "keep": "first:4"}
    assert in_full["settings"]["precision"] is None
    assert len({score["perplexity"] for score in scores.values()}) == 3
    cost = [line for line in result["verdict"] if line.startswith(f"{label}: ")]
    assert f"{rounded['perplexity']:.2f} against {in_full['perplexity']:.2f} in full." in cost[0]
    assert any("4-bit KV" in line for line in result["model"]["layers"])


def test_generation_is_rounded_and_says_so(sinkctl):
    code, out, err = sinkctl("stream", "-g", 12, "--prompt", "It was", "-W", 60, *ROUNDED, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["generate"]["policy"] == "4+60, 4-bit KV, last 20 in full"
    assert result["choices"]["decode_attention"].startswith("rounded: ")


def test_a_plan_says_what_is_held_and_recomputation_has_no_precision(sinkctl):
    flags = ["-p", "4+60", "-p", "recompute:4+60", *ROUNDED, "--kv", "2bit"]
    code, plan, err = sinkctl("stream", "--dry-run", *flags)
    assert code == 0, err
    settled = yaml.safe_load(plan)["policies"]
    assert [each["precision"] and each["precision"]["bits"] for each in settled] == [4, 2, None]
    assert "4+60, 2-bit KV, last 20 in full: cache of 64 tokens, " in err


def test_python_takes_what_a_recipe_says(demo, tmp_path, book):
    (tmp_path / "page.txt").write_text(book[:600], encoding="utf-8")
    how = {"kind": "sink_window", "window": 60, "precision": {"bits": 2, "recent": 20, "keep": "first:1"}}
    outcome = product.stream(tmp_path / "page.txt", model=demo, policies=["4+60", how])
    assert list(outcome.nll) == ["4+60", "4+60, 2-bit KV, last 20 in full, first 1 kept"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--kv 5bit", "--kv 5bit: no such precision; one of full, 8bit, fp8, 4bit, 3bit, 2bit"),
        ("--kv 4bit --set policies.0.precision.group=0", "--set policies.0.precision.group=0: input should be greater"),
        ("--kv 4bit --set policies.0.precision.group=24", "--kv: groups of 24 channels do not divide values of 64"),
        (
            "--kv 4bit -p 4+60",
            "--kv-recent 128 (the default): a window of 60 holds no group of 32 tokens past those; give at most 28",
        ),
        ("--kv 4bit -p 4+16", "give a window of 32 and more"),
        ("-g 5 --kv 4bit -W 60", "--kv-recent 128 (the default): a window of 60"),
        ("--kv 4bit --kv-keep last:4", "--kv-keep last:4: Tokens that stay in full: none, or first:N"),
        ("--kv 4bit --kv-keep first:300 -p 4+252", "--kv-keep first:300: 4+252 holds 256 tokens"),
        ("--kv 4bit --kv-recent -1", "--kv-recent -1: input should be greater than or equal to 0"),
        ("--kv-keep first:4", "--kv-keep first:4: nothing is rounded; give --kv 4bit"),
        ("--kv 4bit -p recompute:4+60", "--kv 4bit: what recompute keeps cannot be rounded"),
        ("-g 5 --kv 4bit --kv 2bit", "--kv 2bit: text is generated at one precision"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_flag(sinkctl, monkeypatch, flags, said):
    monkeypatch.setattr("sinkctl.model.load.load", None)  # nothing is loaded for it
    code, out, err = sinkctl("stream", *flags.split())
    assert (code, out) == (2, "")
    assert err.startswith("sinkctl: ")
    assert said in err
    assert err.count("\n") == 1
