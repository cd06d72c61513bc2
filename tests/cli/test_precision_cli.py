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
    shown = {"bits": 4, "keys": "channel", "group": 32, "recent": 20, "keep": "first:4", "massive": None, "most": 8}
    assert kept["settings"]["precision"] == shown
    assert in_full["settings"]["precision"] is None
    assert len({score["perplexity"] for score in scores.values()}) == 3
    cost = [line for line in result["verdict"] if line.startswith(f"{label}: ")]
    assert f"{rounded['perplexity']:.2f} against {in_full['perplexity']:.2f} in full." in cost[0]
    assert any("4-bit KV" in line for line in result["model"]["layers"])


# What a stream of the built-in model, whose activations are not massive, may be told by all the same.
TOLD = ["layer=3", "channels=[5]", "above=0.5"]


def test_predicted_tokens_are_kept_as_the_recipe_says_and_in_what_is_said_after_it(sinkctl, tmp_path):
    flags = [
        "-p",
        "4+60",
        *ROUNDED,
        "--kv-keep",
        "none",
        "--kv-keep",
        "predicted",
        "--limit",
        300,
        "-o",
        tmp_path / "run",
    ]
    flags += [word for told in TOLD for word in ("--set", f"policies.1.precision.massive.{told}")]
    code, out, err = sinkctl("stream", *flags, "--json")
    assert code == 0, err
    plain, kept = json.loads(out)["stream"]["policies"]
    assert kept["label"] == f"{plain['label']}, predicted kept"
    assert kept["settings"]["precision"]["massive"] == {"layer": 3, "channels": [5], "above": 0.5}
    assert kept["perplexity"] != plain["perplexity"]
    said = [word for told in TOLD for word in ("--set", f"policy.precision.massive.{told}")]
    code, out, err = sinkctl(
        "stream", "-g", 12, "--prompt", "It was", "-W", 60, *ROUNDED, "--kv-keep", "first:1+predicted", *said, "--json"
    )
    assert code == 0, err
    result = json.loads(out)
    assert result["generate"]["policy"] == "4+60, 4-bit KV, last 20 in full, first 1 and predicted kept"
    assert "which tokens are kept is asked of the host" in result["choices"]["decode_attention"]


def test_predicted_tokens_are_refused_where_nothing_tells_them(sinkctl):
    for flags in (["--limit", 300], ["-g", 5, "--prompt", "It was"], ["--questions", "lines"]):
        code, out, err = sinkctl("stream", "-W", 60, *ROUNDED, "--kv-keep", "predicted", *flags)
        assert (code, out) == (3, "")
        assert err.splitlines()[-1].startswith("sinkctl: --kv-keep predicted: no activation of demo is massive, so ")


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
        ("--kv 4bit --kv-keep last:4", "--kv-keep last:4: Tokens that stay in full: none; first:N, the first N"),
        ("--kv 4bit --kv-keep first:300 -p 4+252", "--kv-keep first:300: 4+252 holds 256 tokens"),
        (
            "--kv 4bit -p 4+252 --set policies.0.precision.most=2",
            "precision.most: no predicted token is kept; give --kv-k",
        ),
        (
            "--kv 4bit -g 5 --set policy.precision.massive.layer=3 --set policy.precision.massive.channels=[5] --set "
            "policy.precision.massive.above=1",
            "precision.massive: no predicted token is kept; give --kv-keep predicted, or leave it out",
        ),
        (
            "--kv 4bit --kv-keep predicted --set compile=true -p 4+252",
            "compile=true: predicted tokens are told by a layer",
        ),
        ("--kv 4bit --kv-keep predicted --set compile=true -g 5", "compile=true: predicted tokens are told by a layer"),
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
