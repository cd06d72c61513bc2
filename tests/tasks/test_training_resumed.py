"""Training that is stopped, killed, shared or breaks: nothing of it is lost, and nothing comes out otherwise."""

import errno
import json
import math
import os
import shutil
import signal
import socket
import time

import pytest
import torch
import yaml
from processes import Command, launched
from training_runs import JUDGED, small, train, weights

from sinkctl.check.convert import check_folder
from sinkctl.errors import Interrupted, ModelError, ResumeError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.result.schema import Result
from sinkctl.result.store import CHECKPOINT, RECIPE, RESULT, STATE, RunFolder
from sinkctl.tasks.convert import run
from sinkctl.tasks.convert.task import Outcome
from sinkctl.tasks.convert.training import train as training
from sinkctl.tasks.convert.write import whole_or_nothing

SHARED = ("--steps", 3, "--set", "training.loss.kl=0.5", "--set", "training.micro_batch=1", "--dtype", "float32")
# AdamW moves a weight whose gradient is nothing but rounding by its whole rate: small beside what is compared.
SLOWLY = ("--lr", 1e-4, "--set", "training.sink_lr=0.0001")
# What the second process compares meanwhile: the start and the control.
COMPARED = (
    "--control", "--set", "evaluation.run=true", "--set", "evaluation.tokens=100", "--set", "evaluation.samples=2",
    "--set", "evaluation.length=32",
)  # fmt: skip
CONTROLLED = {"control": True, "save_seconds": 0, "lr": 1e-2}


@pytest.fixture(scope="module")
def text(book, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "novel.txt"
    path.write_text(book[:20_000])
    return path


@pytest.fixture(scope="module")
def model(demo) -> LoadedModel:
    return small(demo.tokenizer)


@pytest.fixture(scope="module")
def stored(model, tmp_path_factory):
    """The model as a folder."""
    folder = tmp_path_factory.mktemp("stored")
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def every_step_saved(monkeypatch):
    monkeypatch.setattr(training, "SAVE_SHARE", math.inf)


def check_same(found, truth) -> None:
    """Two outcomes, to the last digit."""
    ours, theirs = (each.result.convert.training for each in (found, truth))
    for mine, other in zip(ours.curves, theirs.curves, strict=True):
        assert (mine.loss, mine.objective, mine.gradient) == (other.loss, other.objective, other.gradient)
    assert ours.probes == theirs.probes
    assert [line.model_dump() for line in found.result.convert.checkpoints] == [
        line.model_dump() for line in truth.result.convert.checkpoints
    ]
    check_same_weights(found.path, truth.path)


def check_same_weights(found, truth) -> None:
    ours, theirs = weights(found), weights(truth)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], x) for name, x in theirs.items())


def stop_at(path, label: str, step: int):
    """Asks to stop once a state says that a checkpoint has come this far: during the step after it."""

    def asked() -> bool:
        if not (path / STATE / CHECKPOINT).exists():
            return False
        runs = RunFolder(path).load_json(f"{STATE}/{CHECKPOINT}")["runs"]
        return label in runs and runs[label]["course"]["step"] >= step

    return asked


def test_a_run_that_was_stopped_ends_as_one_that_ran_through(model, text, tmp_path, every_step_saved):
    said = {"probe": 2, **CONTROLLED}
    how = dict(steps=6, evaluation=JUDGED)
    whole = train(tmp_path / "whole", model, "kv_bias", text, said, **how)
    assert [(p.checkpoint, p.step) for p in whole.result.convert.training.probes] == [
        (label, step) for label in ("converted", "control") for step in (0, 2, 4, 6)
    ]
    out, spent = tmp_path / "out", [0.0]
    for number, (label, step) in enumerate([("converted", 2), ("converted", 5), ("control", 3)]):
        asked = {"stop": stop_at(out, label, step - 1), "resume": number > 0}
        words = f"stopped at step {step} of the {label} checkpoint; go on with sinkctl convert --resume {out}"
        with pytest.raises(Interrupted, match=words):
            train(out, model, "kv_bias", text, said, how=asked, **how)
        states = {f"{label}-{step}", *(["converted-6"] if label == "control" else [])}
        assert {path.name for path in (out / STATE).iterdir()} == {CHECKPOINT, *states}, "the last one of each alone"
        spent.append(RunFolder(out).load_json(f"{STATE}/{CHECKPOINT}")["spent"])
    assert spent == sorted(set(spent)), "each counts what those before it took"
    found = train(out, model, "kv_bias", text, said, how={"resume": True}, **how)
    check_same(found, whole)
    assert found.result.phases["before it was stopped"] == spent[-1] < found.result.seconds
    assert not (out / STATE).exists(), "nothing is left of the states"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    with pytest.raises(ResumeError, match="is finished, and nothing is left to do"):
        train(out, model, "kv_bias", text, said, how={"resume": True}, **how)


def test_two_optimizers_resume_too(model, text, tmp_path, every_step_saved):
    said = {"optimizer": "muon", "loss": {"kl": 0.5, "first": 0.1}, "lr": 1e-2, "save_seconds": 0}
    whole = train(tmp_path / "whole", model, "sigmoid", text, said)
    with pytest.raises(Interrupted):
        train(tmp_path / "out", model, "sigmoid", text, said, how={"stop": stop_at(tmp_path / "out", "converted", 2)})
    check_same(train(tmp_path / "out", model, "sigmoid", text, said, how={"resume": True}), whole)


def test_a_full_disk_keeps_the_last_state_which_goes_on(model, text, tmp_path, monkeypatch, every_step_saved):
    whole = train(tmp_path / "whole", model, "kv_bias", text, CONTROLLED)
    save, out = torch.save, tmp_path / "out"

    def full(*args, **kwargs):
        if RunFolder(out).load_json(f"{STATE}/{CHECKPOINT}")["runs"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(ModelError, match=rf"No space left on device\).*kept.*--resume {out}"):
            train(out, model, "kv_bias", text, CONTROLLED)
    assert sorted(path.name for path in (out / STATE).iterdir()) == ["converted-1", CHECKPOINT]
    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedModel.save_pretrained", full)
        with pytest.raises(ModelError, match=rf"No space left on device\); go on with --resume {out}"):
            train(out, model, "kv_bias", text, CONTROLLED, how={"resume": True})
    check_same(train(out, model, "kv_bias", text, CONTROLLED, how={"resume": True}), whole)


def test_a_loss_that_is_no_number_names_its_step_and_the_state_before(model, text, tmp_path, every_step_saved):
    out = tmp_path / "out"
    said = {"lr": 1e30, "sink_lr": 1e30, "warmup": 2, "save_seconds": 0}
    with pytest.raises(ModelError) as found:
        train(out, model, "kv_bias", text, said)
    words = str(found.value)
    kept = RunFolder(out).load_json(f"{STATE}/{CHECKPOINT}")["runs"]["converted"]
    step = kept["course"]["step"]
    assert step >= 1
    place = out / STATE / kept["folder"]
    assert f"is not finite at step {step + 1}; the state of step {step} is kept in {place}; take a lower --lr" in words
    assert (place / "model.safetensors").exists()
    with pytest.raises(ModelError) as again:
        train(out, model, "kv_bias", text, said, how={"resume": True})
    assert str(again.value) == words


def test_weights_too_large_for_what_they_are_written_in_are_refused_and_not_written(model, text, tmp_path):
    """The model is stored in float16, which ends at 65,504; it learns in float32."""
    said = r"\.weight has grown to \d.*, and float16, in which .* ends at 65504; its states stay .*; take a lower"
    with pytest.raises(ModelError, match=said):
        train(tmp_path / "out", model, "none", text, {"lr": 1e6}, steps=1)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def result_of(folder) -> Result:
    return Result.model_validate_json((folder / RESULT).read_text())


def recipe_in(folder) -> ConvertRecipe:
    return ConvertRecipe.model_validate(yaml.safe_load((folder / RECIPE).read_text()))


def convert(stored, text, out, *more) -> list:
    settings = {"calibration.samples": 2, "calibration.window": 16, "training.save_seconds": 0}
    sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    brief = ["--no-eval", "--no-control", "--batch", 4, "--length", 24, "--lr", 0.01, "--device", "cpu"]
    return ["convert", stored, "--to", "kv_bias", "--text", text, "--train-text", text, "-o", out, *brief, *sets, *more]


def test_a_process_that_is_killed_goes_on_from_its_last_state(stored, text, tmp_path, sinkctl):
    out, steps = tmp_path / "out", 100
    state = out / STATE / CHECKPOINT
    process = Command(*convert(stored, text, out, "--steps", steps))
    try:
        until = time.monotonic() + 60
        while not (state.exists() and '"step": ' in state.read_text()) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert process.poll() is None, process.ended()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = RunFolder(out).load_json(f"{STATE}/{CHECKPOINT}")["runs"]["converted"]["course"]
    assert 0 < kept["step"] < steps
    code, _, err = sinkctl("convert", "--resume", out)
    assert code == 0, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    check_same(Outcome(result_of(out), out), run(recipe_in(out), output=tmp_path / "whole"))


def test_two_processes_learn_what_one_learns(stored, text, tmp_path):
    words = convert(stored, text, tmp_path / "out", *SHARED, *SLOWLY, *COMPARED)
    (first, out, err), (second, silent, other) = (process.ended() for process in launched(words))
    assert (first, second) == (0, 0), err + other
    assert (out.count("trained: 3 steps"), silent) == (1, ""), "the first process alone speaks"
    alone = run(recipe_in(tmp_path / "out"), output=tmp_path / "alone")
    found, truth = (result.convert.training for result in (result_of(tmp_path / "out"), alone.result))
    assert (found.processes, truth.processes) == (2, 1)
    for ours, theirs in zip(found.curves, truth.curves, strict=True):
        # Sums over two processes round otherwise: a float32 of this size moves by 9.5e-7 a digit of its last place.
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)
        assert ours.objective == pytest.approx(theirs.objective, abs=1e-5)
        assert ours.gradient == pytest.approx(theirs.gradient, rel=1e-4)
    for table in ("streams", "checkpoints"):
        ours, theirs = (getattr(each.convert, table) for each in (result_of(tmp_path / "out"), alone.result))
        assert [line.checkpoint for line in ours] == [line.checkpoint for line in theirs]
        assert {line.checkpoint for line in ours} >= {"original", "converted", "control"}
        for mine, other in zip(ours, theirs, strict=True):
            trained = mine.checkpoint in ("converted", "control")
            # The same weights: in another number of threads the last place of a float32 rounds otherwise.
            assert mine.perplexity == pytest.approx(other.perplexity, rel=1e-4 if trained else 1e-6), mine
    ours, theirs = weights(tmp_path / "out"), weights(alone.path)
    assert ours.keys() == theirs.keys()
    # As a whole: AdamW moves a single weight by its rate also where its gradient is nothing but rounding.
    assert all((ours[name].float() - x.float()).norm() <= 1e-5 * x.float().norm() for name, x in theirs.items())


def test_a_training_goes_on_in_another_number_of_processes(stored, text, tmp_path, sinkctl):
    out, state = tmp_path / "out", tmp_path / "out" / STATE / CHECKPOINT
    words = convert(stored, text, out, "--steps", 40, "--dtype", "float32", *SLOWLY)

    def steps() -> int:
        runs = json.loads(state.read_text())["runs"] if state.exists() else {}
        return runs["converted"]["course"]["step"] if runs else 0

    for processes, asked in ((2, words), (1, ["convert", "--resume", out])):
        begun, running = steps(), launched(asked, processes)
        while steps() <= begun and running[0].poll() is None:
            time.sleep(0.01)
        for process in running:
            process.send_signal(signal.SIGTERM)
        assert [process.ended()[0] for process in running] == [130] * processes
        assert begun < steps() < 40
    assert [process.ended()[0] for process in launched(["convert", "--resume", out], 2)] == [0, 0]
    found, truth = (
        each.convert.training.curves[0]
        for each in (result_of(out), run(recipe_in(out), output=tmp_path / "alone").result)
    )
    assert len(found.loss) == 40
    assert found.loss == pytest.approx(truth.loss, abs=1e-4)


def test_a_step_that_processes_cannot_share_equally_is_refused_at_once(stored, text, tmp_path, sinkctl, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = sinkctl(*convert(stored, text, tmp_path / "out", "--steps", 2, "--batch", 3))
    assert (code, out) == (2, "")
    assert err == "sinkctl: --batch 3: cannot be shared among 2 processes equally\n"
    assert not any(tmp_path.iterdir())


def test_a_stopped_training_goes_on_with_the_text_and_the_settings_it_was_begun_with_alone(model, text, tmp_path):
    mine, out = tmp_path / "mine.txt", tmp_path / "out"
    mine.write_text(text.read_text())

    def go_on(training=None, **settings):
        how = {"resume": out.exists(), "stop": lambda: (out / STATE / CHECKPOINT).exists() and not out_resumed}
        return train(out, model, "sink_logit", mine, {"save_seconds": 0, **(training or {})}, how=how, **settings)

    out_resumed = False
    with pytest.raises(Interrupted):
        go_on()
    out_resumed = True
    with pytest.raises(ResumeError, match=r"training\.lr is not what"):
        go_on({"lr": 0.5})
    mine.write_text(text.read_text()[::-1])
    with pytest.raises(ResumeError, match="the text to train on is not what"):
        go_on()
    mine.write_text(text.read_text())
    assert go_on({"save_seconds": 9}, evaluation=JUDGED).result.convert.training.steps == 4


def test_two_processes_never_train_in_one_folder(model, text, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        train(out, model, "none", text, how={"stop": lambda: (out / STATE / CHECKPOINT).exists()})
    kept = sorted(path.name for path in (out / STATE).iterdir())
    with RunFolder(out).held(), pytest.raises(ResumeError, match=f"{out}: another process is at work in it; wait"):
        train(out, model, "none", text, how={"resume": True})
    assert sorted(path.name for path in (out / STATE).iterdir()) == kept, "nothing is left of the lock"
    assert train(out, model, "none", text, how={"resume": True}).result.convert.training.steps == 4


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError()])
def test_where_there_are_no_locks_a_run_goes_on_without(error, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr("sinkctl.result.store.FileLock.acquire", fails)
    (tmp_path / STATE).mkdir()
    (tmp_path / STATE / "lock").touch()  # made before it is known
    with pytest.raises(ValueError, match="own") as found, RunFolder(tmp_path).held():
        raise ValueError("own")
    assert found.value.__context__ is None, "what goes wrong inside is not said to come of it"
    assert not (tmp_path / STATE).exists()


def test_inf_says_no_clipping_and_no_states_in_between(model, text, tmp_path):
    train(tmp_path / "out", model, "none", text, {"clip": math.inf, "save_seconds": math.inf}, steps=2)
    training = yaml.safe_load((tmp_path / "out" / RECIPE).read_text())["training"]
    assert training["clip"] == training["save_seconds"] == math.inf


def test_what_a_killed_process_was_writing_is_taken_away_by_the_next(tmp_path):
    out, host, nobody = tmp_path / "out", socket.gethostname(), 1 << 30
    left, others = tmp_path / f".out.written-{host}-{nobody}", tmp_path / f".out.written-{host}-{os.getppid()}"
    for folder in (left, others, out / STATE / f"written-{host}-{nobody}"):
        folder.mkdir(parents=True)
    (out / STATE / CHECKPOINT).write_text("{}")
    (out / "templates").mkdir()
    (out / "templates" / "old").touch()  # moved, before it was killed
    with whole_or_nothing(out, 1, replaces=True) as folder:
        assert [path.name for path in (out / STATE).iterdir() if path.is_dir()] == [folder.name]
        (folder / "templates").mkdir()
        (folder / RESULT).touch()
    assert sorted(path.name for path in out.iterdir()) == [RESULT, "templates"]
    assert not any((out / "templates").iterdir())
    with whole_or_nothing(tmp_path / "new" / "out", 1) as folder:
        (folder / RESULT).touch()
    assert left.exists(), "of another folder"
    shutil.rmtree(out)
    with whole_or_nothing(out, 1) as folder:
        (folder / RESULT).touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [others.name, "new", "out"]


def test_a_run_killed_while_its_states_go_is_finished(tmp_path, monkeypatch):
    """Not one that says it can be resumed and then misses half of its state."""
    (tmp_path / "out" / STATE / "converted-4").mkdir(parents=True)
    (tmp_path / "out" / STATE / CHECKPOINT).write_text("{}")
    remove = shutil.rmtree

    def killed(path, **how):
        if path.parent == tmp_path / "out" / STATE:
            raise KeyboardInterrupt
        remove(path, **how)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt), whole_or_nothing(tmp_path / "out", 1, replaces=True) as folder:
        (folder / RESULT).touch()
    with pytest.raises(ResumeError, match="is finished, and nothing is left to do"):
        check_folder(tmp_path / "out", resume=True)
