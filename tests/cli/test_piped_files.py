"""Small files given as `<(command)`: a pipe, which is empty when it is read again, says what a file of it would."""

import json
import os
import re

import pytest

from sinkctl.model.load import DEMO
from sinkctl.recipe.load import load
from sinkctl.small_file import bytes_of, is_pipe, is_there, pipes_kept

BENCH = """task: bench
shape: tiny
cases: [{kind: stream, windows: [12], chunks: [8], peers: []}]
timing: {rounds: 5, warmup: 0, seconds: 1e-4}
"""
QUESTIONS = '{"text": "Ann lives in Rome.", "question": "Where does Ann live?", "answer": "Rome"}\n'


@pytest.fixture
def piped():
    """What a shell makes of <(echo TEXT)."""
    opened = []

    def pipe(text: str | bytes) -> str:
        reading, writing = os.pipe()
        os.write(writing, text.encode() if isinstance(text, str) else text)
        os.close(writing)
        opened.append(reading)
        return f"/dev/fd/{reading}"

    yield pipe
    for reading in opened:
        os.close(reading)


@pytest.mark.parametrize(
    ("held", "suffix", "command"),
    [
        ("task: stream\nlimit: 30\n", ".yaml", "stream --recipe {} --dry-run"),
        ("task: stream\nlimt: 30\n", ".yaml", "stream --recipe {} --dry-run"),
        ("task: measure\n", ".yaml", "measure --recipe {} --dry-run"),
        ("task: convert\n", ".yaml", "convert --recipe {} --to sink_logit --dry-run"),
        ("task: stream\n", ".yaml", "bench {} --dry-run"),
        (BENCH, ".yaml", "bench {} --dry-run"),
        ("task: stream\r\nlimit: 3\r\n", ".yaml", "recipe show {}"),
        ("task: [", ".yaml", "recipe validate {}"),
        (b"\xff", ".yaml", "recipe validate {}"),
        ("{}", ".json", "show {}"),
        ("", ".json", "show {}"),
        (QUESTIONS, ".jsonl", "stream --questions {} -p 4+60 --dry-run"),
        ('{"prompt": "Hello"}\n', ".jsonl", "stream -g 3 --prompt-file {} --field prompt -p 4+60 --temperature 0 -q"),
        ("Hello", ".txt", "stream -g 3 --prompt-file {} -p 4+60 --temperature 0 -q"),
        ("one\ntwo\n\none\n", ".txt", "measure --suspect {} --set suspect.random=x --dry-run"),
        ("", ".txt", "measure --suspect {} --dry-run"),
    ],
)  # fmt: skip
def test_a_pipe_says_what_a_file_of_it_says(held, suffix, command, sinkctl, piped, tmp_path):
    path = tmp_path / f"given{suffix}"
    path.write_bytes(held.encode() if isinstance(held, str) else held)
    pipe = piped(held)
    expected = sinkctl(*command.format(path).split())
    code, out, err = sinkctl(*command.format(pipe).split())
    said = [re.sub(r"[\d.]+ (tok/s|ms|s|GFLOP/s|MiB)\b", "", text.replace(pipe, str(path))) for text in (out, err)]
    assert (code, *said) == (expected[0], *(re.sub(r"[\d.]+ (tok/s|ms|s|GFLOP/s|MiB)\b", "", x) for x in expected[1:]))


def test_a_benchmark_and_its_baseline_come_by_pipes(sinkctl, piped, in_this_process, tmp_path):
    kept = tmp_path / "base.json"
    assert sinkctl("bench", piped(BENCH), "--save-baseline", kept, "-q")[0] == 0
    gate = ["--fail-on", "stream.tokens_per_s:99%"]
    code, out, err = sinkctl("bench", piped(BENCH), "--baseline", piped(kept.read_bytes()), *gate, "--json")
    assert code == 0, err
    found = json.loads(out)["bench"]
    assert (found["suite"], [change["name"] for change in found["changes"]]) == ("bench", ["stream.4+12.tokens_per_s"])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("stream --questions {} -p dense", "a pipe is read only once"),
        ("measure demo {demo} --text {}", "and there are several checkpoints"),
        ("stream -p 4+12 --limit 9 --redistribute 0.5 --redistribute-heads calibrate --redistribute-text {}",
         "a pipe can be read only once; name a file"),
    ],
)  # fmt: skip
def test_what_has_to_be_read_twice_asks_for_a_file(command, said, sinkctl, piped):
    code, _, err = sinkctl(*command.format(piped(QUESTIONS), demo=DEMO).split())
    assert (code, said in err) == (2, True), err


def test_only_pipes_are_kept_and_only_as_long_as_a_command_runs(piped, tmp_path):
    path, pipe = tmp_path / "file", piped("task: stream\n")
    path.write_text("before")
    with pipes_kept():
        assert (bytes_of(path), bytes_of(pipe)) == (b"before", b"task: stream\n")
        path.write_text("after")
        assert (bytes_of(path), bytes_of(pipe)) == (b"after", b"task: stream\n")
        assert load(pipe).task == "stream"
    assert bytes_of(pipe) == b""
    assert [is_there(name) for name in (path, pipe, tmp_path, tmp_path / "none")] == [True, True, False, False]
    assert [is_pipe(name) for name in (path, pipe, tmp_path, "\0")] == [False, True, False, False]
