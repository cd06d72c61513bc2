"""`sinkctl convert` on the command line."""

import json

import pytest
import torch
from conftest import DATA
from transformers import AutoModelForCausalLM, AutoTokenizer

import sinkctl as package
from sinkctl.errors import UsageError
from sinkctl.sinks import SINKS

QUICK = ("--samples", "2", "--window", "32", "--eval-tokens", "300")


def test_help_names_every_mechanism_and_nothing_else(sinkctl):
    code, out, _ = sinkctl("convert", "--help")
    assert code == 0
    paragraph = out.split("MECHANISM is one of")[1].split("It begins with")[0]
    assert [line.split()[0] for line in paragraph.splitlines() if line.strip()] == list(SINKS)


def test_a_checkpoint_is_written_that_transformers_loads_and_that_streams_without_kept_tokens(sinkctl, tmp_path):
    given, kept = tmp_path / "given.yaml", tmp_path / "with a sink"
    code, out, err = sinkctl("convert", *QUICK, "-o", kept, "--json", "--fail-on", "gap_closed>=50")
    assert code == 0, err
    assert "holds: gap_closed>=50" in err
    assert json.loads(out)["convert"]["model_type"] == "granite_swa"
    held = {path.name for path in kept.iterdir()}
    assert held >= {"recipe.yaml", "result.json", "env.json", "report.html", "README.md", "model.safetensors"}
    assert (
        AutoTokenizer.from_pretrained(kept)("It was").input_ids
        == AutoTokenizer.from_pretrained(package.load().model.name_or_path)(
            "It was", add_special_tokens=False
        ).input_ids
    )
    assert torch.isfinite(AutoModelForCausalLM.from_pretrained(kept)(torch.tensor([[5, 6, 7]])).logits).all()
    assert sinkctl("stream", "-m", kept, "-p", "0+64", "--limit", "200", "-q")[0] == 0

    given.write_text((kept / "recipe.yaml").read_text())  # the kept recipe runs again
    again = tmp_path / "again"
    assert sinkctl("convert", "-r", given, "-o", again, "-q")[0] == 0
    assert (again / "model.safetensors").read_bytes() == (kept / "model.safetensors").read_bytes()
    assert sinkctl("convert", *QUICK, "-o", kept)[2].strip().endswith("name another folder, or remove it")


def test_the_report_ends_with_how_to_go_on(sinkctl, tmp_path):
    for to, policy in (("sink_logit", "0+32"), ("sink_token", "1+31")):
        kept = tmp_path / f"out {to}"
        code, _, err = sinkctl("convert", "--to", to, *QUICK, "--no-eval", "-o", kept)
        assert code == 0
        assert f"go on with: sinkctl stream --model '{kept}' -p {policy}\n" in err


def test_a_dry_run_says_how_the_checkpoint_would_be_stored_and_writes_nothing(sinkctl, tmp_path):
    kept = tmp_path / "kept"
    code, out, err = sinkctl("convert", "--to", "softpick", "--window", "40", "-o", kept, "--dry-run")
    assert code == 0
    assert "window: 40\n" in out
    assert "softpick, stored as own code" in err
    assert not kept.exists()


def test_another_mechanism_than_the_recipes_begins_without_its_settings(sinkctl):
    _, out, _ = sinkctl(
        "convert", "--recipe", "convert/gate", "--to", "key_bias", "--start", "zero", "--dry-run", "--json"
    )
    assert json.loads(out)["sink"] == {"kind": "key_bias", "bos": "auto", "start": "zero", "bias": True}
    _, out, _ = sinkctl("convert", "--recipe", "convert/gate", "--start", "exact", "--dry-run", "--json")
    assert json.loads(out)["sink"]["form"] == "headwise"


def test_the_python_call_takes_the_settings_of_every_part(tmp_path, demo):
    found = package.convert(
        demo, to="kv_bias", start="zero", window=32, samples=2, evaluation={"run": False}, store="code",
        output=tmp_path / "kept",
    )  # fmt: skip
    assert found.result.recipe["sink"] == {"kind": "kv_bias", "bos": "auto", "start": "zero"}
    assert (found.result.recipe["calibration"]["window"], found.result.convert.own_code) == (32, True)
    with pytest.raises(UsageError, match=r"sink.start: no such field; none has kind, bos"):
        package.convert(demo, to="none", start="match", output=tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "--output"),
        (("--to", "sink_logt", "-o", "x"), 2, "did you mean 'sink_logit'? One of sink_logit, softmax1"),
        (("--to", "register", "-o", "x"), 2, "no such kind 'register'; one of sink_logit"),
        (("--to", "score_bias", "--start", "zero", "-o", "x"), 2, "sink.start: no such field; score_bias has"),
        (("--to", "gate", "--start", "zero", "-o", "x"), 2, "'exact' or 'match' (given: 'zero' for gate)"),
        (("--to", "gate", "--start", "match", "--set", "sink.place=value", "-o", "x"), 2, "not with the value"),
        (
            ("--to", "key_bias", "--set", "sink.bais=false", "-o", "x"),
            2,
            "sink.bais: no such field; did you mean 'bias'",
        ),
        (("--bos", "never", "-o", "x"), 2, "'auto', 'keep' or 'drop'"),
        (("--bos", "keep", "-o", "x"), 2, "bos keep"),
        (("--steps", "100", "-o", "x"), 2, "steps: input should be 0"),
        (("--window", "2", "-o", "x"), 2, "calibration.window"),
        (("--fail-on", "gap_close<=1", "-o", "x"), 2, "did you mean 'gap_closed'"),
        (("--fail-on", "kl<=1", "--no-eval", "-o", "x"), 2, "leave --no-eval out"),
        (("--recipe", "measure/bos", "-o", "x"), 2, "a recipe for `sinkctl measure`"),
        (("demo", "-m", "demo", "-o", "x"), 2, "leave one out"),
        (("--text", "nowhere.txt", "-o", "x"), 3, "no such file"),
        (("--text", str(DATA / "README.md"), "-o", "x"), 3, "give a longer text"),
        (("./nowhere", "-o", "x"), 3, "no such folder"),
        (("--store", "stock", "--to", "softpick", "-o", "x"), 3, "cannot be stored in a stock class"),
        (("-o", str(DATA)), 2, "exists already"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code_and_leaves_nothing(
    sinkctl, tmp_path, monkeypatch, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    found, _, err = sinkctl("convert", *arguments)
    assert words in err
    assert found == code
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
