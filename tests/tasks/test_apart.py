"""Texts on their own: each as if it were streamed alone, whoever scores it and whatever is beside it."""

import csv
import gzip
import json
import signal
import time
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from families import HYBRID, STREAMED, in_float64, tiny
from fed import wrap
from places import DATA
from processes import held_at_a_state, launched
from torch.nn.functional import cross_entropy

from sinkctl.errors import Interrupted, ResumeError, TextError
from sinkctl.recipe.load import validate
from sinkctl.recipe.shorthand import policy
from sinkctl.result.store import RunFolder
from sinkctl.tasks.stream import run
from sinkctl.tasks.stream.apart import run_apart
from sinkctl.tasks.stream.crew import Crew
from sinkctl.tasks.stream.parts import LEAST, MOST, PARTS, parts_of, shared_out
from sinkctl.tasks.stream.plan import DONE, begun
from sinkctl.tasks.stream.scorers import scorer_for
from sinkctl.tasks.stream.shared import Shared
from sinkctl.tasks.stream.texts import side_by_side

TEXT = (DATA / "stories.txt").read_text(encoding="utf-8")
COUNTS = (37, 5, 50, 1, 12, 49)  # tokens of texts side by side


def recipe(files, each="file", policies=("4+60", "0+64"), **settings):
    text = {"files": [str(file) for file in files], "each": each, **settings.pop("text", {})}
    return validate({"task": "stream", "text": text, "policies": [policy(p) for p in policies], **settings})


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Short and long files, one of them compressed, records, and nothing; in four parts."""
    monkeypatch.setattr("sinkctl.tasks.stream.parts.LEAST", 1500)
    files = [tmp_path / f"{name}.txt" for name in "abcd"]
    for path, (first, end) in zip(files, ((0, 300), (300, 2800), (2800, 3000), (3000, 3000)), strict=True):
        path.write_text(TEXT[first:end], encoding="utf-8")
    lines = [json.dumps({"text": TEXT[i : i + 40 + i % 300]}) for i in range(4000, 7000, 250)]
    (tmp_path / "r.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(TEXT[7000:9500].encode()))
    return [*files, tmp_path / "r.jsonl", tmp_path / "z.txt.gz"]


POLICIES = [
    policy("2+7"), policy("dense"), policy("recompute:2+7"), policy("heavy_hitter:2+8"), policy("layers:2+8:0"),
    {"kind": "sink_window", "sinks": 2, "window": 20, "precision": {"bits": 4, "recent": 4, "group": 8}},
    {"kind": "sink_window", "sinks": 2, "window": 20, "redistribute": {"share": 0.5}},
    {"kind": "heads", "whole": [[0, 1], [1, 0]], "sinks": 2, "window": 7},
]  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "bloom", "qwen3_next"])
def test_texts_side_by_side_are_each_as_if_alone(family, monkeypatch):
    in_float64(monkeypatch)
    loaded = wrap(tiny(*(STREAMED | HYBRID)[family]))
    ids_BT = torch.randint(3, 64, (len(COUNTS), max(COUNTS) + 1), generator=torch.Generator().manual_seed(1))
    for chosen in POLICIES if family == "llama" else POLICIES[:2]:
        scorer = scorer_for(loaded, validate({"task": "stream", "policies": [chosen]}).policies[0], bos=False)
        together = scorer.texts(ids_BT[:, :-1], ids_BT[:, 1:], COUNTS)
        for ids_T, found, count in zip(ids_BT, together, COUNTS, strict=True):
            scorer.begin()
            alone = scorer.step(ids_T[:count], ids_T[1 : count + 1])
            np.testing.assert_allclose(found, alone, rtol=0, atol=1e-10, err_msg=scorer.policy.label)


def test_every_record_is_scored_as_the_stock_model_scores_it_alone(demo, tmp_path, book):
    texts = [book[at : at + 30 + at % 400] for at in range(0, 4000, 171)]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(json.dumps({"body": text}) for text in texts), encoding="utf-8")
    outcome = run(recipe([path], "record", ["dense"], text={"field": "body"}), demo)
    first = 0
    for number, text in enumerate(texts):
        ids = torch.tensor(demo.tokenizer(text).input_ids)  # the tokenizer puts BOS in front
        with torch.no_grad():
            expected = cross_entropy(demo.model(input_ids=ids[None, :-1]).logits[0], ids[1:], reduction="none")
        np.testing.assert_allclose(outcome.nll["dense"][first : first + len(ids) - 1], expected, rtol=0, atol=2e-5)
        byte = sum(len(json.dumps({"body": before})) + 1 for before in texts[:number])
        assert outcome.texts[number].tolist() == [first, 0, byte, number + 1]
        first += len(ids) - 1
    assert (outcome.result.stream.texts, outcome.result.stream.tokens) == (len(texts), first)
    curve = outcome.result.stream.policies[0].curve
    assert max(point.end for point in curve) == np.diff(outcome.texts[:, 0], append=first).max(), "by place in a text"


def test_every_file_is_streamed_as_if_alone_and_limits_are_of_each(stories, corpus):
    outcome = run(recipe(corpus, policies=["4+60"], limit=400, chunk=128), stories)
    alone = []
    for path in corpus[:3] + corpus[4:]:
        joined = validate({"task": "stream", "policies": [policy("4+60")], "chunk": 128, "limit": 400}
                          | {"text": {"files": [str(path)]}})  # fmt: skip
        alone.append(run(joined, stories).nll["4+60"])
    np.testing.assert_allclose(outcome.nll["4+60"], np.concatenate(alone), rtol=0, atol=2e-5)
    assert outcome.texts[:, 0].tolist() == np.cumsum([0, *map(len, alone[:-1])]).tolist()
    assert outcome.texts[:, 1].tolist() == [0, 1, 2, 4, 5]
    assert max(map(len, alone)) == 400
    assert "Empty, so no text of this run: d.txt." in outcome.result.notes


def test_a_forward_pass_takes_alike_texts_that_fit_with_their_padding():
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 100, 50).tolist()
    for tokens, rows in ((128, None), (300, 3), (10, None), (2000, None)):
        groups = side_by_side(lengths, tokens, rows)
        assert sorted(text for group in groups for text in group) == list(range(50))
        for group in groups:
            longest = max(lengths[text] for text in group)
            assert len(group) == 1 or (len(group) * max(32, longest) <= tokens and len(group) <= (rows or 50))
        order = [lengths[text] for group in groups for text in group]
        assert order == sorted(order, reverse=True)


def test_parts_are_of_neighbours_whatever_their_number_and_the_largest_go_first():
    for sizes in ([10] * 100, [5 << 20, 10, 20, 3 << 20, 0, 0], [1], [100 << 10] * 10**5):
        parts = parts_of(sizes)
        assert [number for part in parts for number in range(*part)] == list(range(len(sizes)))
        bound = max(LEAST, min(MOST, sum(sizes) // 64), sum(sizes) // PARTS)
        held = [sum(sizes[first:end]) for first, end in parts]
        assert all(size <= bound or end - first == 1 for size, (first, end) in zip(held, parts, strict=True))
        assert all(a + b > bound for a, b in zip(held, held[1:], strict=False)) or len(sizes) < 7
    shares = shared_out([3, 9, 4, 4, 1, 8], 3)
    assert shares == [[1], [0, 5], [2, 3, 4]]
    parts = shared_out(range(1, 1001), 7)
    assert sorted(part for share in parts for part in share) == list(range(1000))
    loads = [sum(part + 1 for part in share) for share in parts]
    assert max(loads) - min(loads) <= 7


class One(Crew):
    """A process of several, which are run one after the other."""

    def __init__(self, rank, size, plan):
        self.rank, self.size, self._plan = rank, size, plan

    def agreed(self, settle):
        return self._plan


def apart(built, loaded, output, processes, resume=False, stop=lambda rank: lambda: False):
    """As several processes do, the first one last: it waits for the others. What the first one has in the end."""
    with ExitStack() as holding:
        plan = begun(Shared.of(built, loaded), str(output), resume, kept=True, holding=holding)
    for rank in reversed(range(processes)):
        crew, nothing = One(rank, processes, plan), lambda *_: None
        try:
            outcome = run_apart(built, loaded, crew, output, resume, nothing, stop(rank), nothing)
        except Interrupted:
            if not rank:
                raise
    return outcome


def contents(folder):
    found = json.loads((folder / "result.json").read_text())
    timed = [m for m in found["measurements"] if m["name"].startswith("stream.")]
    found["measurements"] = [m for m in found["measurements"] if m not in timed]
    del found["seconds"], found["phases"], found["stream"]["memory"], found["stream"]["processes"]
    kept = ["nll.npy", "texts.npy", *(["lines.csv"] if (folder / "lines.csv").exists() else [])]
    return found, *((folder / name).read_bytes() for name in kept)


def test_two_runs_never_share_a_folder_of_texts_on_their_own(stories, corpus, tmp_path):
    shared = Shared.of(recipe(corpus, "file", chunk=64), stories)
    for resume in (False, True):
        with ExitStack() as first, ExitStack() as second:
            begun(shared, str(tmp_path), resume, kept=True, holding=first)
            with pytest.raises(ResumeError, match="another process is at work in it"):
                begun(shared, str(tmp_path), resume=True, kept=True, holding=second)


@pytest.mark.parametrize("each", ["file", "record"])
def test_processes_find_what_one_finds_and_go_on_in_any_number(stories, corpus, tmp_path, each):
    built = recipe(corpus, each, chunk=64, passages={"save_as": ["csv"]})
    run(built, stories, output=tmp_path / "one")
    with (tmp_path / "one/lines.csv").open(encoding="utf-8", newline="") as file:
        assert {row["file"] for row in csv.DictReader(file)} == {str(path) for path in corpus} - {str(corpus[3])}
    for processes in (2, 3) if each == "file" else (3,):
        outcome = apart(built, stories, tmp_path / f"{processes}", processes)
        assert outcome.result.stream.processes == processes
        assert contents(tmp_path / f"{processes}") == contents(tmp_path / "one")
    cut, calls = tmp_path / "cut", {}

    def after(blocks):
        def stop(rank):
            calls[rank] = 0

            def asked():
                calls[rank] += 1
                return calls[rank] > blocks

            return asked

        return stop

    with pytest.raises(Interrupted, match=f"stopped after .* continue with: sinkctl stream --resume {cut}"):
        apart(built, stories, cut, 2, stop=after(3))
    with pytest.raises(Interrupted):
        apart(built, stories, cut, 3, resume=True, stop=after(5))
    assert run(built, stories, output=cut, resume=True).result.stream.processes == 1
    assert contents(cut) == contents(tmp_path / "one")
    assert not (cut / "state").exists()


def test_a_damaged_file_is_named_and_the_run_goes_on_with_a_whole_one(stories, corpus, tmp_path):
    built, whole = recipe(corpus, chunk=64), corpus[-1].read_bytes()
    corpus[-1].write_bytes(whole[:-400])
    with pytest.raises(TextError, match=r"z\.txt\.gz: damaged or cut short"):
        run(built, stories, output=tmp_path / "cut")
    corpus[-1].write_bytes(whole)
    corpus[0].write_text("other")
    with pytest.raises(ResumeError, match=r"the text changed .*a\.txt"):
        run(built, stories, output=tmp_path / "cut", resume=True)
    corpus[0].write_text(TEXT[:300])
    run(built, stories, output=tmp_path / "cut", resume=True)
    run(built, stories, output=tmp_path / "one")
    assert contents(tmp_path / "cut") == contents(tmp_path / "one")


def test_a_process_that_is_killed_is_named_and_the_others_work_is_kept(tmp_path, sinkctl, monkeypatch):
    monkeypatch.setattr("sinkctl.tasks.stream.parts.LEAST", 100)  # as of those processes
    files = [tmp_path / f"{number}.txt" for number in range(4)]
    for number, path in enumerate(files):
        path.write_text(TEXT[: 500 * (1 + number)], encoding="utf-8")
    words = ["stream", *files, "--model", DATA / "stories260K", "-p", "4+60", "--each", "file", "--chunk", 16]
    first, second = launched([*words, "-o", tmp_path / "cut"], 2, before=held_at_a_state)
    parts = tmp_path / "cut" / "state"
    own = shared_out([path.stat().st_size for path in files], 2)[1]
    states = [parts / f"part-{number:04}/state/state.json" for number in own]
    while second.poll() is None and not any(state.exists() for state in states):
        time.sleep(0.01)
    second.send_signal(signal.SIGKILL)
    code, out, said = first.ended()
    assert (code, out) == (3, ""), said
    assert "process 1 (pid" in said
    assert f"died in {files[own[0]]}" in said
    assert f"--resume {tmp_path / 'cut'}" in said
    done = [number for number in range(4) if (parts / f"part-{number:04}/done.json").exists()]
    assert done == shared_out([path.stat().st_size for path in files], 2)[0], "the other one did all of its own"
    assert sinkctl("stream", "--resume", tmp_path / "cut", "-q")[0] == 0
    assert sinkctl(*words, "-o", tmp_path / "whole", "-q")[0] == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_part_whose_end_was_not_written_down_goes_on_from_its_last_state(stories, corpus, tmp_path, monkeypatch):
    built = recipe(corpus, chunk=64)
    run(built, stories, output=tmp_path / "whole")
    monkeypatch.setattr("sinkctl.tasks.stream.kept.SAVE_SECONDS", 0)
    monkeypatch.setattr("sinkctl.tasks.stream.kept.SAVE_SHARE", 1e9)
    write = RunFolder.write_json

    def killed(folder, name, data):
        if name == DONE:
            raise KeyboardInterrupt
        write(folder, name, data)

    monkeypatch.setattr(RunFolder, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run(built, stories, output=tmp_path / "cut")
    monkeypatch.setattr(RunFolder, "write_json", write)
    run(built, stories, output=tmp_path / "cut", resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_one_text_and_pipes_are_for_one_process_alone(sinkctl, tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("a b")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, said = sinkctl("stream", path, path)
    assert code == 2
    assert said.startswith("sinkctl: 2 processes: the 2 files are one text")
    assert "--each file" in said
    code, _, said = sinkctl("stream", path, "-", "--each", "file", stdin=b"c")
    assert (code, said) == (2, "sinkctl: -: a pipe is read by one process alone; 2 of them need files\n")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert sinkctl("stream", path, path) == (2, "", ""), "the first process of a machine says so"
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("LOCAL_RANK")
    assert "--each record: none of the texts" in sinkctl("stream", path, "--each", "record")[2]
    assert "--rows 3: all files are one text" in sinkctl("stream", path, "--rows", "3")[2]
