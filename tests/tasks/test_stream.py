"""The stream task on real weights: what it scores, where it says things are, and what survives being stopped."""

import copy
import csv
import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from families import REFUSED, tiny
from places import DATA
from processes import Command, saving_often
from torch.nn.functional import cross_entropy

from sinkctl.errors import Interrupted, ModelError, ResumeError, TextError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.load import validate
from sinkctl.recipe.shorthand import policy
from sinkctl.result.store import RunFolder
from sinkctl.tasks.stream import StreamRun, run


def recipe(files=(), policies=("4+60",), **settings):
    text = {"files": [str(f) for f in files], **settings.pop("text", {})}
    return validate({"task": "stream", "text": text, "policies": [policy(p) for p in policies], **settings})


@pytest.fixture
def page(tmp_path, book):
    """Two thousand characters in a file."""
    path = tmp_path / "page.txt"
    path.write_text(book[:2000], encoding="utf-8")
    return path


def test_losses_are_those_of_the_stock_model_in_the_order_of_the_text(demo, page, book):
    page.write_text(book[:500])  # short: the stock model's float32 angles lose digits with distance
    outcome = run(recipe([page], ["dense"]), demo)
    ids = torch.tensor(demo.tokenizer(book[:500]).input_ids)  # the tokenizer puts BOS in front
    with torch.no_grad():
        expected = cross_entropy(demo.model(input_ids=ids[None, :-1]).logits[0], ids[1:], reduction="none")
    np.testing.assert_allclose(outcome.nll["dense"], expected, rtol=0, atol=2e-5)
    assert outcome.result.measurement("perplexity").value == pytest.approx(
        float(expected.double().mean().exp()), rel=1e-6
    )


def test_a_window_without_sinks_costs_perplexity_on_the_demo_model(demo):
    outcome = run(recipe(policies=["4+124", "0+128"], limit=3000), demo)
    kept, bare = (score.perplexity for score in outcome.result.stream.policies)
    assert bare > 1.15 * kept
    assert outcome.result.verdict[0].startswith("Sink found")
    assert outcome.result.stream.sink_rate == pytest.approx(0.76, abs=0.05)


def test_a_model_without_a_sink_is_told_so(stories):
    outcome = run(recipe([DATA / "stories.txt"], ["4+124", "0+128"], limit=3000), stories)
    kept, bare = (score.perplexity for score in outcome.result.stream.policies)
    assert outcome.result.verdict[0].startswith("No sink found")
    assert abs(bare / kept - 1) < 0.01
    assert outcome.result.verdict[1].startswith("Dropping the first tokens costs nothing")


def test_a_choice_is_held_against_the_best_that_chance_does(demo):
    asked = recipe(policies=["heavy_hitter:4+60", "random:4+60", "random:0+64"], limit=800)
    rarely = tuple(policy.model_copy(update={"every": 16}) for policy in asked.policies)
    outcome = run(asked.model_copy(update={"policies": rarely}), demo)
    hitter, pinned, bare = (score.common_perplexity for score in outcome.result.stream.policies)
    assert bare > 1.15 * pinned
    assert abs(hitter / pinned - 1) < 0.08
    words = next(line for line in outcome.result.verdict if line.startswith("heavy_hitter 4+60, every 16 chooses"))
    assert f"{pinned:.2f} of random 4+60, every 16" in words


def test_streaming_is_within_one_percent_of_recomputation_with_bos(demo):
    outcome = run(recipe(policies=["4+124", "recompute:4+124@20", "0+128"], limit=2000, chunk=500), demo)
    kept, again, bare = (score.common_perplexity for score in outcome.result.stream.policies)
    assert abs(kept / again - 1) < 0.015
    assert bare > 1.1 * again


def test_recompute_is_the_stock_model_on_each_window_by_itself(demo, page, book):
    length, every = 33, 7
    chosen = {"kind": "recompute", "sinks": 1, "window": length - 2, "every": every}
    built = validate(
        {"task": "stream", "text": {"files": [str(page)]}, "policies": [chosen], "chunk": 50, "limit": 200}
    )
    found = run(built, demo).nll["recompute 1+31"]
    ids = demo.tokenizer(book[:2000]).input_ids
    for t in range(200):
        if t % every:
            assert np.isnan(found[t])
            continue
        window = ids[max(0, t - length + 1) : t + 1]
        window = [demo.bos_id, *window[1:]]
        with torch.no_grad():
            expected = -demo.model(input_ids=torch.tensor([window])).logits[0, -1].log_softmax(-1)[ids[t + 1]]
        assert found[t] == pytest.approx(float(expected), abs=2e-5)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_learned_positions_are_dense_up_to_the_context_and_refused_by_name(demo, page, book, family):
    model_type, settings, _ = REFUSED[family]
    model = tiny(model_type, {**settings, "vocab_size": 4096}, torch.float32)
    loaded = LoadedModel(model, demo.tokenizer, family, "in memory")
    ids = torch.tensor(demo.tokenizer(book[:2000]).input_ids)
    with torch.no_grad():
        expected = cross_entropy(model(input_ids=ids[None, :128]).logits[0], ids[1:129], reduction="none")
    found = run(recipe([page], ["dense"], chunk=50), loaded).nll["dense"]
    np.testing.assert_allclose(found[:128], expected, rtol=0, atol=2e-5)
    assert np.isnan(found[128:]).all()
    again = run(recipe([page], ["recompute:1+40"], chunk=50, limit=60), loaded).nll["recompute 1+40"]
    for t in (3, 41, 42, 59):
        window = ids[max(0, t - 41) : t + 1].clone()
        window[0] = demo.bos_id
        with torch.no_grad():
            loss = -model(input_ids=window[None]).logits[0, -1].log_softmax(-1)[ids[t + 1]]
        assert again[t] == pytest.approx(float(loss), abs=2e-5)
    with pytest.raises(ModelError, match=r"learned embeddings.*--policy dense"):
        run(recipe([page], ["4+60"]), loaded)


def test_a_loss_that_is_no_number_stops_the_run(demo, page):
    broken = LoadedModel(copy.deepcopy(demo.model), demo.tokenizer, "broken", "in memory")
    with torch.no_grad():
        broken.model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="not a finite number in float32"):
        run(recipe([page]), broken)


def test_the_sink_rate_does_not_depend_on_the_chunk(demo):
    rates = {run(recipe(limit=600, chunk=chunk), demo).result.stream.sink_rate for chunk in (32, 100, 1024)}
    assert len(rates) == 1
    assert rates.pop() > 0.7


def test_every_file_start_is_marked(demo, tmp_path, book):
    files = [tmp_path / f"{i}.txt" for i in range(5)]
    for i, path in enumerate(files):
        path.write_text(book[100 * i : 100 * i + 100])
    outcome = run(recipe(files), demo)
    counts = [len(demo.tokenizer(path.read_text(), add_special_tokens=False).input_ids) for path in files]
    starts = np.cumsum([0, *counts[:-1]]).tolist()
    assert [(m.index, m.file, m.byte) for m in outcome.result.stream.marks] == [
        (index, str(path), 0) for index, path in zip(starts, files, strict=True)
    ]


def test_bos_each_file_and_limits_keep_the_index_of_every_token(demo, tmp_path, book):
    texts = [book[:300], "", book[300:500]]
    files = [tmp_path / f"{i}.txt" for i in range(3)]
    for path, text in zip(files, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    blocks = list(StreamRun(recipe(files, ["dense"], chunk=16, text={"bos_each_file": True}), demo))
    ids = np.concatenate([block.ids for block in blocks])
    expected = [demo.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert ids.tolist() == expected[0] + expected[2]  # BOS is an input twice, and never scored
    assert [int(b.first) for b in blocks] == np.cumsum([0, *(len(b.ids) for b in blocks[:-1])]).tolist()
    assert {int(f) for b in blocks for f in b.files} == {0, 2}
    limited = run(recipe(files, ["dense"], chunk=16, limit=21), demo)
    assert len(limited.nll["dense"]) == 21


def test_without_bos_the_first_token_is_not_scored(demo, page):
    outcome = run(recipe([page], text={"bos": "never"}), demo)
    tokens = len(demo.tokenizer(page.read_text(), add_special_tokens=False).input_ids)
    assert len(outcome.nll["4+60"]) == tokens - 1
    assert "no BOS" in outcome.result.stream.bos


def test_passages_name_the_place_of_their_text(demo, tmp_path, book):
    path = tmp_path / "odd.txt"
    odd = "zqx vwk jjq xxz qqk zzv wqj kkx vzq jxw qzk xvj wwq zkj qxv jzw kqx vvz"
    path.write_text(book[:3000] + odd + book[3000:6000], encoding="utf-8")
    best = run(recipe([path]), demo).result.stream.passages[0]
    assert 3000 - 60 <= best.byte <= 3000 + 40
    text = path.read_bytes()
    assert text[best.byte :].decode().startswith(best.text)
    assert best.line == text[: best.byte].count(b"\n") + 1


def test_a_planted_odd_line_comes_first_whole_and_with_its_token(demo, tmp_path, book):
    lines = [f"The carriage {n} came along the road at noon and went on its way." for n in range(200)]
    lines[120] = "The carriage 120 came along the road at qzxv and went on its way."
    path = tmp_path / "log.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    built = recipe([path], ["4+252"], passages={"by": "line", "top": 3})
    passages = run(built, demo).result.stream.passages
    assert len(passages) == 3
    assert (passages[0].line, passages[0].text.strip()) == (121, lines[120])
    assert passages[0].token.strip() in "at qzxv and"
    assert "".join(piece for piece, _ in passages[0].pieces) == passages[0].text
    assert passages[0].token_nll == max(loss for _, loss in passages[0].pieces)


def test_every_line_is_kept_with_its_place_and_its_losses(demo, tmp_path, book, monkeypatch):
    """The text in order, nothing left out, each line beside the losses of nll.npy and as surprising as its passage."""
    monkeypatch.setattr("sinkctl.tasks.stream.lines.WINDOW", 7)  # tokens looked at in one go: less than a line
    path = tmp_path / "page.txt"
    path.write_text(book[:3000], encoding="utf-8")
    asked = {"by": "line", "top": 10_000, "save_as": ["csv", "jsonl"]}
    built = recipe([path], ["4+60", "recompute:1+30@6"], passages=asked)
    outcome = run(built, demo, output=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/lines.jsonl").read_text(encoding="utf-8").splitlines()]
    assert "".join(row["text"] for row in rows) == book[:3000]
    assert rows[0]["index"] == 0
    data = path.read_bytes()
    for row, after in zip(rows, rows[1:], strict=False):
        assert row["index"] + row["tokens"] == after["index"]
        assert data[row["byte"] : after["byte"]].decode() == row["text"]
        assert row["line"] == data[: row["byte"]].count(b"\n") + 1 < after["line"]
    for label, nll in outcome.nll.items():
        kept = np.array([loss for row in rows for loss in row["losses"][label]], float)
        np.testing.assert_allclose(kept, nll, atol=6e-5)
    surprises = {row["line"]: row["surprise"] for row in rows if row["surprise"] is not None}
    assert surprises == pytest.approx({p.line: p.nll for p in outcome.result.stream.passages}, abs=6e-5)
    with (tmp_path / "run/lines.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    for said, row in zip(table, rows, strict=True):
        assert (said["text"], said["line"], said["byte"]) == (
            row["text"].rstrip("\n"),
            str(row["line"]),
            str(row["byte"]),
        )
        assert said["nll 4+60"] == str(row["nll"]["4+60"])


def test_a_stopped_run_continues_to_the_same_bytes(stories, page, book, tmp_path):
    page.write_text(book[:500])
    saved = {"save_as": ["csv", "jsonl"]}
    built = recipe([page, page], ["4+60", "0+64", "recompute:1+30"], chunk=32, passages=saved)
    run(built, stories, output=tmp_path / "whole")
    for stop_after in (1, 3, 7):
        at, calls = tmp_path / f"cut-{stop_after}", iter(range(1000))
        with pytest.raises(Interrupted, match="--resume"):
            run(built, stories, output=at, stop=lambda calls=calls, last=stop_after: next(calls) + 1 == last)
        outcome = run(built, stories, output=at, resume=True)
        for name in ("nll.npy", "lines.csv", "lines.jsonl"):
            assert (tmp_path / "whole" / name).read_bytes() == (at / name).read_bytes()
        assert not list(at.glob("*.i64"))
        whole, cut = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "whole", at))
        for key in ("policies", "marks", "passages", "tokens"):
            assert whole["stream"][key] == cut["stream"][key]
        assert np.load(at / "nll.npy").shape == (3, len(outcome.nll["4+60"]))
        assert not (at / "state").exists()


def test_a_run_killed_at_any_moment_continues_to_the_same_bytes(tmp_path, book):
    path = tmp_path / "text.txt"
    path.write_text(book[:16000], encoding="utf-8")
    words = ["stream", path, "-W", 60, "--chunk", 64, "-q"]
    whole = Command(*words, "-o", tmp_path / "whole")
    draw, cut, kills = np.random.default_rng(0), tmp_path / "cut", 0
    arguments, state = [*words, "-o", cut], cut / "state/state.json"
    for _ in range(3):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = Command(*arguments, before=saving_often)
        while process.poll() is None and not (state.exists() and state.stat().st_mtime_ns > before):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.4))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        arguments = ["stream", "--resume", cut, "-q"]
        if not state.exists():
            break
    if state.exists():
        assert Command(*arguments).wait() == 0
    assert kills >= 2
    assert whole.wait() == 0
    assert (tmp_path / "whole/nll.npy").read_bytes() == (cut / "nll.npy").read_bytes()


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_and_says_how_to_go_on(tmp_path, book, name):
    path, cut = tmp_path / "text.txt", tmp_path / "cut"
    path.write_text(book, encoding="utf-8")
    process = Command("stream", path, "-W", 60, "--chunk", 64, "-o", cut, "-q", before=saving_often)
    while not (cut / "state/state.json").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(name)
    code, _, said = process.ended()
    assert code == 130
    assert f"continue with: sinkctl stream --resume {cut}" in said
    folder = RunFolder(cut)
    assert folder.load_state()[0]["tally"]["scored"] > 0


@pytest.mark.parametrize("change", ["recipe", "text", "prefix", "model"])
def test_what_changed_is_refused_on_resume(demo, stories, page, tmp_path, change):
    built = recipe([page], chunk=64)
    with pytest.raises(Interrupted):
        run(built, demo, output=tmp_path / "cut", stop=lambda: True)
    loaded = demo
    if change == "recipe":
        built = recipe([page], ["4+61"], chunk=64)
    elif change == "text":
        page.write_text(page.read_text() + "more")
    elif change == "prefix":
        page.write_text("X" + page.read_text()[1:])
    else:
        loaded = stories
    with pytest.raises(ResumeError, match="changed since"):
        run(built, loaded, output=tmp_path / "cut", resume=True)


def test_an_unfinished_run_is_not_overwritten_and_a_finished_one_not_resumed(demo, page, tmp_path):
    built = recipe([page], chunk=64)
    with pytest.raises(Interrupted):
        run(built, demo, output=tmp_path / "cut", stop=lambda: True)
    with pytest.raises(UsageError, match="--resume"):
        run(built, demo, output=tmp_path / "cut")
    run(built, demo, output=tmp_path / "cut", resume=True)
    with pytest.raises(ResumeError, match="finished"):
        run(built, demo, output=tmp_path / "cut", resume=True)


def test_a_crash_while_saving_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path)
    folder.save_state({"step": 1}, {"x": torch.ones(3)})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        folder.save_state({"step": 2}, {"x": torch.zeros(3)})
    data, tensors = folder.load_state()
    assert data["step"] == 1
    assert torch.equal(tensors["x"], torch.ones(3))


def test_an_empty_text_is_one_clear_error(demo, tmp_path):
    path = tmp_path / "empty.txt"
    path.touch()
    with pytest.raises(TextError, match="no token to score"):
        run(recipe([path]), demo)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_layers_score_what_the_others_do():
    from sinkctl.model.load import load
    from sinkctl.model.settings import ModelSettings

    loaded = load(ModelSettings(device="cuda", dtype="float32"))
    found = [run(recipe(limit=4000, chunk=1024, compile=on), loaded).nll["4+60"] for on in (True, False)]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-4)
