"""The script of the retrofit table: what it trains, and the numbers that no command of sinkctl gives."""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from row_queues import rows_fail
from torch.nn.functional import cross_entropy, kl_div
from training_runs import small

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import retrofit
import retrofit_judged as judging
from retrofit_judged import beside, cost, inputs_in_8_bits, means, needles, predicted, reloaded, samples
from retrofit_table import cell

import sinkctl
from sinkctl.errors import SinkctlError, TextError
from sinkctl.recipe.load import load
from sinkctl.recipe.named import built_in, find

SAID = ["", "--model", "m.gguf", "--text", __file__, "--second", __file__, "--needles", "0", "--train-text", __file__]


def test_a_row_is_its_recipe_at_the_size_asked_for(monkeypatch, tmp_path):
    sizes = ["--steps", "50", "--window", "60", "--batch", "4"]
    monkeypatch.setattr(sys, "argv", [*SAID, "--folder", str(tmp_path), *sizes])
    options = retrofit.flags()
    staged, control = (retrofit.recipe_of(name, 2, options) for name in ("sink_logit_staged", "control"))
    assert (staged.steps, staged.training.alone, staged.training.batch, staged.training.seed) == (50, 10, 4, 2)
    assert (staged.training.window, staged.calibration.window, staged.model.name) == (60, 60, "m.gguf")
    assert staged.training.loss.massive > 0 == control.training.loss.massive
    assert staged.training.lr == control.training.lr
    longer = retrofit.recipe_of("sink_logit_longer", 2, options)
    assert (longer.training.window, longer.training.batch, longer.calibration.window) == (120, 2, 120), "as many tokens"
    child = retrofit.child(retrofit.__file__, options)
    monkeypatch.setattr(sys, "argv", [*child, "--only", "control", "--first-seed", "2"])
    again = retrofit.flags()
    assert retrofit.recipe_of("control", 2, again) == control


def test_rows_named_mixed_are_trained_on_a_second_text_which_they_must_be_given(monkeypatch, tmp_path):
    said = [*SAID, "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*said, "--only", "control", "control_mixed"])
    with pytest.raises(SystemExit, match="--mixed-text: name a text for control_mixed, or leave it out by --only"):
        retrofit.main()
    monkeypatch.setattr(sys, "argv", [*said, "--mixed-text", retrofit.__file__])
    files = {row: retrofit.recipe_of(row, 0, retrofit.flags()).training.text.files for row in ("gate", "control_mixed")}
    assert files == {"gate": (__file__,), "control_mixed": (__file__, retrofit.__file__)}


def test_needles_that_are_told_are_counted_by_length_and_cache(demo, monkeypatch):
    """In place of the harness, which the extra `eval` brings: what it is asked, and what is made of its answer."""
    asked = []

    def evaluate(lm, task, include, limit, length):
        asked.append((lm, task, limit, length))
        return {"results": {"4096,none": -1, f"{length},none": 0.75 if lm == "dense" else 0.5}}

    harness = SimpleNamespace(SinkctlLM=lambda loaded, policy: policy.label, evaluate=evaluate)
    monkeypatch.setitem(sys.modules, "sinkctl.tasks.bench.harness", harness)
    found = {}
    for each in needles(demo, argparse.Namespace(window=60, needles=3), {"kept.needle_2048"}):
        found |= each
    assert asked == [(cache, "niah_single_1", 3, length)
                     for cache, length in (("0+60", 1024), ("0+60", 2048), ("dense", 2048))]  # fmt: skip
    assert found == {"bare.needle_1024": 50, "bare.needle_2048": 50, "dense.needle_2048": 75}


def test_by_itself_a_recipe_trains_its_control_beside_it_and_as_a_row_none():
    """So that the report and the model card compare both; among rows the control is one of its own."""
    options = argparse.Namespace(steps=9, **dict.fromkeys(("batch", "length", "lr", "micro_batch", "compile")))
    options = argparse.Namespace(
        **vars(options), model="m", device="cpu", window=60, train_text=["a"], mixed_text=["c"], calibration="b"
    )
    for name in [name for name in built_in() if name.startswith(retrofit.ROWS)]:
        recipe = load(find(name))
        assert recipe.training.control is (recipe.sink.kind != "none"), name
        assert retrofit.recipe_of(name.removeprefix(retrofit.ROWS), 0, options).training.control is False


def test_rows_and_checkpoints_of_other_settings_are_refused(tmp_path, monkeypatch, capsys):
    """Trained otherwise, judged otherwise, or by a version that did not say; the device is no setting."""

    def run(*more):
        monkeypatch.setattr(sys, "argv", [*SAID, "--folder", str(tmp_path), "--only", "gate", *more])
        retrofit.main()

    def converted(recipe, output, **_):
        output.mkdir()
        settled = recipe.model_dump(mode="json")
        settled["training"]["precision"], settled["model"]["device"] = "float32", "cpu"
        curve = {"seconds": 1.0, "loss": [], "objective": [], "gradient": []}
        names = ("steps", "batch", "length", "window", "lr", "tokens_per_second", "attention", "precision")
        training = dict.fromkeys(names, 0) | {"curves": [curve]}
        (output / "result.json").write_text(json.dumps({"recipe": settled, "convert": {"training": training}}))

    def fails(*_, **__):
        raise SinkctlError("runs again")

    monkeypatch.setattr(retrofit.sinkctl, "convert", converted)
    monkeypatch.setattr(retrofit.sinkctl, "load", lambda *_, **__: None)
    monkeypatch.setattr(retrofit, "judged", lambda *_: iter([{"bare.needle_1024": 56}]))
    monkeypatch.setattr(retrofit, "reloaded", lambda *_: {"stock_gap": 0.0})
    run()
    monkeypatch.setattr(retrofit.sinkctl, "convert", fails)
    run("--device", "cpu")
    for more in (["--steps", "9"], ["--tokens", "900"], ["--second", retrofit.__file__]):
        with pytest.raises(SystemExit, match=r"gate-0.json: is of other settings; name another --folder, or remove it"):
            run(*more)
    earlier = json.loads((tmp_path / "gate-0.json").read_text())
    assert earlier["settings"]["recipe"]["training"].pop("rounded", 0) is None
    earlier["settings"]["recipe"]["training"]["micro_batch"] = 2
    (tmp_path / "gate-0.json").write_text(json.dumps(earlier))
    run()  # a row of before `training.rounded` is one without it
    (tmp_path / "gate-0.json").write_text('{"row": "gate", "seed": 0, "machine": "one"}')
    with pytest.raises(SystemExit, match=r"gate-0.json: is of other settings"):
        run()
    (tmp_path / "gate-0.json").unlink()
    with pytest.raises(SystemExit, match=r"gate-0: is of other settings"):
        run("--lr", "3e-4")
    run("--tokens", "900")  # judged otherwise, the checkpoint is the same
    judged = json.loads((tmp_path / "gate-0.json").read_text())
    assert judged["settings"]["judged"]["tokens"] == 900
    (tmp_path / "gate-0.json").unlink()
    (tmp_path / "gate-0.part").write_text(json.dumps(judged | {"machine": "another"}))
    run("--tokens", "900")  # judged in part on another machine
    assert json.loads((tmp_path / "gate-0.json").read_text())["machine"] == f"{judged['machine']}; another"
    assert "56" in capsys.readouterr().out.splitlines()[-1]


def test_rows_that_are_none_or_fail_are_told_of_in_the_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [*SAID, "--folder", str(tmp_path), "--only", "nosuch"])
    with pytest.raises(SystemExit, match="--only nosuch: no such row; there are original, control, "):
        retrofit.main()
    monkeypatch.setattr(sys, "argv", [*SAID, "--folder", str(tmp_path), "--device", "cpu", "--workers", "2", "--only",
                                      "original", "gate"])  # fmt: skip
    rows_fail(retrofit, monkeypatch, capsys)


def test_a_text_shorter_than_a_sample_is_refused_by_name(demo, tmp_path):
    (tmp_path / "short.txt").write_text("It was a dark and stormy night.")
    with pytest.raises(TextError, match=r"short.txt: \d+ tokens are no sample; .* or less --sample-length"):
        samples(str(tmp_path / "short.txt"), demo, 8, 2048)


def test_losses_and_divergence_are_torch_s_each_model_with_its_own_front(demo):
    """The model puts BOS in front of texts; the other, of other numbers, too."""
    other = small(demo.tokenizer)
    ids_NT = torch.randint(10, 4000, (2, 9), generator=torch.Generator().manual_seed(0))
    found = predicted(demo, other, ids_NT)
    fed_NT = torch.cat([torch.full((2, 1), demo.bos_id), ids_NT], dim=1)
    with torch.no_grad():
        log_V, true_V = (m.model(fed_NT).logits[:, 1:-1].flatten(0, 1).log_softmax(-1) for m in (demo, other))
    assert found["dense"] == pytest.approx(math.exp(cross_entropy(log_V, ids_NT[:, 1:].flatten())), rel=1e-4)
    assert found["kl"] == pytest.approx(kl_div(log_V, true_V, reduction="batchmean", log_target=True).item(), rel=1e-4)
    assert predicted(demo, demo, ids_NT)["kl"] == 0


def test_inputs_in_8_bits_are_within_half_a_step_of_one_range_a_tensor(demo):
    layer, seen = demo.model.model.layers[3].mlp.down_proj, []
    with torch.no_grad(), inputs_in_8_bits(demo.model):
        hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        x_BTC = torch.randn(1, 5, layer.in_features, generator=torch.Generator().manual_seed(1))
        x_BTC[0, 0, 0] = 510.0
        layer(x_BTC)
        hook.remove()
    step = (510.0 - float(x_BTC.min())) / 255
    assert float((seen[0] - x_BTC).abs().max()) <= 0.5 * step * (1 + 1e-6)
    assert len(seen[0].unique()) < 8, "what lies between -4 and 4 has a step of 2"
    with torch.no_grad():
        assert torch.equal(layer(x_BTC), torch.nn.functional.linear(x_BTC, layer.weight)), "and no longer"


def test_a_cost_is_a_share_of_perplexity_with_the_error_of_its_blocks():
    """Two blocks of 256 tokens, of mean changes 0.1 and 0.3: mean 0.2, standard error 0.1."""
    change_T = torch.cat([torch.full((256,), 0.1), torch.full((256,), 0.3)]).double()
    found = cost("kv_4", change_T)
    assert found["kv_4"] == pytest.approx(math.exp(0.2) - 1)
    assert found["kv_4.error"] == pytest.approx(math.exp(0.2) * 0.1)
    assert found["kv_4.blocks"] == pytest.approx([0.1, 0.3])
    assert cell([found], "kv_4", "{:+.2%}") == "+22.14% ± 12.21%"


def test_what_seeds_share_is_their_mean_s_uncertainty_and_what_each_has_alone_evens_out():
    """Blocks of 0.1 and 0.3 in one seed, of 0.3 and 0.1 in the other: each is uncertain of the text, their mean is not;
    what sets a whole seed apart no error tells, only from which to which."""
    one, two = (cost("kv_4", torch.cat([torch.full((256,), x) for x in both])) for both in ((0.1, 0.3), (0.3, 0.1)))
    assert cell([one, two], "kv_4", "{:+.2%}") == "+22.14% ± 0.00% (+22.14% to +22.14%)"
    assert means([one, one])["kv_4.error"] == pytest.approx(one["kv_4.error"])
    assert cell([{"kl": 0.1}, {"kl": 0.3}], "kl", "{:.2f}") == "0.20 (0.10 to 0.30)"
    assert beside(means([one, two]), means([one]), ["kv_4"])["kv_4"] == pytest.approx(1)


def test_a_written_checkpoint_is_held_against_what_transformers_alone_makes_of_it(demo, book, tmp_path, monkeypatch):
    """Its logits are an own parameter of a stock class; moved in the file, not in memory, the losses part."""
    text, out, chosen = tmp_path / "text.txt", tmp_path / "out", argparse.Namespace(window=64)
    text.write_text(book[:3000])
    sinkctl.convert(demo, to="sink_logit", output=out, text=text, window=64, samples=1, evaluation={"run": False})
    loaded = sinkctl.load(str(out))
    run, heard = subprocess.run, []
    monkeypatch.setattr(subprocess, "run", lambda *words, **how: heard.append(run(*words, **how)) or heard[-1])
    found = reloaded(out, loaded, str(text), chosen)
    assert found["stock_class"] == "GraniteSWAForCausalLM"
    assert found["stock_gap"] < 1e-4
    (said,) = heard
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)  # the file is what it was
    with torch.no_grad():
        loaded.model.model.layers[0].self_attn.sinks += 5
    assert reloaded(out, loaded, str(text), chosen)["stock_gap"] > 0.01


def test_a_share_of_a_cost_is_paired_block_by_block():
    """What makes a block hard for both rows is no uncertainty of the share; of more blocks than the other's the first
    are compared."""
    change_T = torch.cat([torch.full((256,), x) for x in (0.1, 0.3, 0.2)]).double()
    theirs = cost("kv_4", change_T)
    half = beside(
        cost("kv_4", torch.log1p(torch.expm1(torch.tensor(0.2)) / 2) / 0.2 * change_T), theirs, ["kv_4", "kv_3"]
    )
    assert half.keys() == {"kv_4", "kv_4.error"}
    assert half["kv_4"] == pytest.approx(0.5, rel=1e-4)
    found = beside(cost("kv_4", change_T + 0.05), theirs, ["kv_4"])
    share = math.expm1(0.25) / math.expm1(0.2)
    assert found["kv_4"] == pytest.approx(share)
    slope = math.exp(0.25) - share * math.exp(0.2)  # of the difference, by how hard a block is: 0.1, 0.3 or 0.2
    assert found["kv_4.error"] == pytest.approx(abs(slope) * 0.1 / 3**0.5 / math.expm1(0.2))
    assert half["kv_4.error"] < 0.2 * 0.1 / 3**0.5 / math.expm1(0.2)
    assert beside(theirs, cost("kv_4", change_T[:512]), ["kv_4"]) == {"kv_4": 1, "kv_4.error": 0}
    assert beside(theirs, {"kv_4": 0.2}, ["kv_4"]) == {}
    assert beside(theirs, cost("kv_4", change_T - 0.2), ["kv_4"]) == {}, "of a cost that is not told from none"


def test_judging_goes_on_where_it_was_stopped(demo, monkeypatch, tmp_path):
    """The numbers are those of one run, and what was known is not looked for again."""
    monkeypatch.setattr(judging, "shown", lambda *_: {"sink_1": 1.0})
    monkeypatch.setattr(judging, "predicted", lambda *_: {"dense": 2.0})
    monkeypatch.setattr(judging, "samples", lambda *_: None)
    sizes = argparse.Namespace(window=40, tokens=1100, few_tokens=600, samples=1, sample_length=64, needles=0)
    texts = {"text": str(tmp_path / "a.txt")}
    (tmp_path / "a.txt").write_text("It was a dark and stormy night, and the lamps were out. " * 90)
    steps = list(judging.judged(demo, small(demo.tokenizer), texts, sizes))
    whole = {key: value for step in steps for key, value in step.items()}
    assert [len(whole[f"text.kv_{bits}.blocks"]) for bits in (4, 2)] == [4, 2]
    assert {"text.bare", "text.kept", "text.kv_4", "text.kv_4_by_token", "sink_1", "text.dense"} < whole.keys()
    first = {key: value for step in steps[:3] for key, value in step.items()}
    rest = list(judging.judged(demo, small(demo.tokenizer), texts, sizes, first.keys()))
    assert first | {key: value for step in rest for key, value in step.items()} == whole
    assert "text.kv_4" in first.keys() - {key for step in rest for key in step}
    assert list(judging.judged(demo, small(demo.tokenizer), texts, sizes, whole.keys())) == [{}]


def test_a_row_that_was_stopped_is_in_the_tables_with_what_is_known_of_it(monkeypatch, tmp_path, capsys):
    """Held against another as far as both are known of the same tokens."""
    common = {"machine": "one", "seed": 0, "second.bare": 5.0}
    blocks = {"text.kv_4": 0.02, "text.kv_4.error": 0.001, "text.kv_4.blocks": [0.01, 0.03]}
    (tmp_path / "control-0.json").write_text(json.dumps(common | {"row": "control"} | blocks))
    (tmp_path / "gate-0.json").write_text(json.dumps(common | {"row": "gate"}))
    (tmp_path / "gate-1.part").write_text(
        json.dumps(common | {"row": "gate", "seed": 1} | blocks | {"text.kv_4": 0.05})
    )
    said = ["", "--folder", str(tmp_path), "--table", "--only", "control", "gate", "--beside", "control"]
    monkeypatch.setattr(sys, "argv", said)
    retrofit.main()
    table = capsys.readouterr().out.split("| text, share of control |")[1].splitlines()
    assert table[2] == "| `gate` | 1 | 1.00 ± 0.00 | – | – | – |"
    other = common | {"row": "gate", "seed": 2, "text.kv_4": 0.9, "settings": {"judged": {"tokens": 9}}}
    control = common | {"row": "control", "settings": {"judged": {"tokens": 900}}} | blocks
    (tmp_path / "control-0.json").write_text(json.dumps(control))
    (tmp_path / "gate-2.part").write_text(json.dumps(other))
    retrofit.main()
    shown = capsys.readouterr()
    assert "+5.00% ± 0.10% [1 of 2]" in shown.out, "the row of other tokens is not in the mean, and one has no cost"
    assert "gate-2.part: is of other settings than the first row, and left out" in shown.err
    longer, usual = (
        {"settings": {"recipe": {"steps": 9, "training": {"batch": batch, "length": length, "lr": 0.1}}}}
        for batch, length in ((2, 4096), (4, 2048))
    )
    (tmp_path / "control-0.json").write_text(json.dumps(control | usual))
    (tmp_path / "gate-2.part").write_text(json.dumps(other | longer))
    retrofit.main()
    assert capsys.readouterr().err == "", "half as many sequences twice as long are no other size"
    for name, why in (("original", "no such row in"), ("nosuch", "no such row; there are original, ")):
        monkeypatch.setattr(sys, "argv", [*said[:-1], name])
        with pytest.raises(SystemExit, match=f"--beside {name}: {why}"):
            retrofit.main()
    (tmp_path / "gate-1.part").write_text("")
    monkeypatch.setattr(sys, "argv", said)
    with pytest.raises(SystemExit, match=r"gate-1.part: is no row \(.*\); remove it"):
        retrofit.main()
