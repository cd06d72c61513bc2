"""`sinkctl convert` on the command line."""

import json
import signal
from contextlib import contextmanager

import pytest
import torch
from places import DATA
from transformers import AutoModelForCausalLM, AutoTokenizer

import sinkctl as package
from sinkctl.cli import converting
from sinkctl.errors import UsageError
from sinkctl.registers import REGISTERS
from sinkctl.sinks import SINKS

TRAIN = ("--steps", "2", "--batch", "2", "--length", "32", "--set", "training.save_seconds=0")
QUICK = ("--samples", "2", "--window", "32", "--eval-tokens", "300")


def test_help_names_every_mechanism_and_nothing_else(sinkctl):
    code, out, _ = sinkctl("convert", "--help")
    assert code == 0
    paragraph = out.split("MECHANISM is one of")[1].split("It begins with")[0]
    named = [line.split()[0] for line in paragraph.splitlines() if line.strip() and not line.startswith(8 * " ")]
    assert named == [*(kind for kind, sink in SINKS.items() if not sink.from_scratch), *REGISTERS]


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


def test_a_dry_run_says_what_would_be_trained(sinkctl, tmp_path):
    given = tmp_path / "book.txt"
    given.write_text("It was a dark and stormy night. " * 100)
    flags = ("--window", "40", "--steps", "30", "--batch", "4", "--sink-lr", "1e-2", "--train-text", given)
    code, out, err = sinkctl("convert", *flags, "--dry-run", "--json")
    training = json.loads(out)["training"]
    assert code == 0
    assert (training["sink_lr"], training["text"]["files"], training["control"]) == (0.01, [str(given)], True)
    assert (
        f"training: 30 steps of 4 sequences of 80 tokens (9,600 in all) of {given}; every weight; window 40; with "
        "control\n"
    ) in err
    _, out, err = sinkctl("convert", "--recipe", "convert/emergence/sink_token", "--trained", "lora", "--dry-run")
    assert "scratch:\n  model_type: llama\n" in out
    assert (
        "training: 2,000 steps of 128 sequences of 512 tokens (131,072,000 in all) of what follows the held-out text; "
        "low-rank updates of attention (rank 16), and the mechanism; full attention; no control\n"
    ) in err


def test_a_training_stopped_by_ctrl_c_goes_on_with_resume_as_if_it_had_not_been(sinkctl, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = ("convert", *QUICK, *TRAIN, "--steps", "4", "--no-eval", "--no-control", "--device", "cpu", "-q")
    assert sinkctl(*flags, "-o", whole)[0] == 0

    @contextmanager
    def interrupting(_):
        yield lambda progress: "step 2 of 4" in progress.what and signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(converting, "parts_shown", interrupting)
    (tmp_path / "settings.yaml").write_text("dtype: float32\n")
    monkeypatch.setenv("SINKCTL_SETTINGS", str(tmp_path / "settings.yaml"))
    code, _, err = sinkctl(*flags, "-o", cut)
    monkeypatch.undo()
    assert code == 130
    assert f"go on with sinkctl convert --resume {cut}" in err
    assert not (cut / "model.safetensors").exists()
    assert sinkctl("convert", "--resume", cut, "-q")[0] == 0
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert list(json.loads((cut / "result.json").read_text())["settings"]) == ["dtype"]


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
    trained = package.convert(
        demo, window=32, samples=2, evaluation={"run": False}, output=tmp_path / "trained", steps=2, lr=1e-4, batch=2,
        control=False, training={"length": 32, "window": 16},
    ).result  # fmt: skip
    said = trained.recipe["training"]
    assert [said[name] for name in ("lr", "batch", "control", "length", "window")] == [1e-4, 2, False, 32, 16]
    assert len(trained.convert.training.curves[0].loss) == 2
    with pytest.raises(UsageError, match=r"sink.start: no such field; none has kind, bos"):
        package.convert(demo, to="none", start="match", output=tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "--output"),
        (("--to", "sink_logt", "-o", "x"), 2, "did you mean 'sink_logit'? One of sink_logit, softmax1"),
        (("--to", "bucket", "-o", "x"), 2, "no such kind 'bucket'; one of sink_logit"),
        (
            ("--to", "score_bias", "--start", "zero", "-o", "x"),
            2,
            "score_bias has no such setting; it has bos, value",
        ),
        (
            ("--to", "gate", "--start", "zero", "-o", "x"),
            2,
            "--start zero: input should be 'exact' or 'match'",
        ),
        (("--to", "gate", "--start", "match", "--set", "sink.place=value", "-o", "x"), 2, "not with the value"),
        (
            ("--to", "key_bias", "--set", "sink.bais=false", "-o", "x"),
            2,
            "--set sink.bais=false: no such field; did you mean 'bias'",
        ),
        (("--bos", "never", "-o", "x"), 2, "'auto', 'keep' or 'drop'"),
        (("--bos", "keep", "-o", "x"), 2, "bos keep"),
        (("--steps", "-1", "-o", "x"), 2, "--steps -1: input should be greater than or equal to 0"),
        (("--lr", "1e-3", "-o", "x"), 2, "--lr: nothing is trained; say for how long, --steps N"),
        (("--no-control", "-o", "x"), 2, "--control: nothing is trained"),
        (("--steps", "2", "--sink-lr", "fast", "-o", "x"), 2, "--sink-lr fast: input should be a valid number"),
        (("--steps", "2", "--train-window", "wide", "-o", "x"), 2, "input should be 'auto' or 'full'"),
        (("--steps", "2", "--trained", "some", "-o", "x"), 2, "--trained some: input should be 'new', 'attention'"),
        (("--to", "sigmoid", "--set", "sink.normalise=true", "-o", "x"), 2, "no mass to match; take start zero"),
        (("--resume", "nowhere"), 2, "no run folder"),
        (("--resume", "nowhere", "-o", "x"), 2, "leave --recipe and --output out"),
        (("--window", "2", "-o", "x"), 2, "--window 2: input should be greater than or equal to 4"),
        (("--fail-on", "gap_close<=1", "-o", "x"), 2, "did you mean 'gap_closed'"),
        (("--fail-on", "kl<=1", "--no-eval", "-o", "x"), 2, "leave --no-eval out"),
        (("--eval-kv", "5bit", "-o", "x"), 2, "--eval-kv 5bit: no such precision; one of full, 8bit, fp8"),
        (("--eval-kv", "full", "-o", "x"), 2, "--eval-kv full: streams in full are compared in any case"),
        (("--eval-kv", "4bit", "--no-eval", "-o", "x"), 2, "leave --no-eval out"),
        (("--eval-kv", "4bit", "--eval-kv", "4bit", "-o", "x"), 2, "--eval-kv 4bit: is there twice"),
        (("--eval-kv", "4bit", "-W", "32", "-o", "x"), 2, "take --window 33 or more"),
        (("--eval-kv", "4bit", "--fail-on", "kv_2bit.cost<=9", "-o", "x"), 2, "give --eval-kv 2bit"),
        (("--set", "evaluation.kv_bits=[5]", "-o", "x"), 2, "evaluation.kv_bits"),
        (("--recipe", "measure/bos", "-o", "x"), 2, "a recipe of `sinkctl measure`"),
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
