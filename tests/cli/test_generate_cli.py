"""`sinkctl stream --generate` and `--chat`: what goes where, and what is refused."""

import json
import shutil
import subprocess
import sys

import pytest

from sinkctl.model.load import DEMO

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}you:{% endif %}"
)


@pytest.fixture
def talker(tmp_path):
    """The built-in model with a chat template."""
    folder = shutil.copytree(DEMO, tmp_path / "talker")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    return folder


def test_text_goes_to_stdout_and_words_to_stderr(sinkctl):
    flags = ["stream", "-g", 30, "--prompt", "It was", "-W", 20]
    code, out, err = sinkctl(*flags, "--fail-on", "generate.ms_per_token<=1e6")
    assert code == 0
    assert len(out.strip()) > 40
    assert "30 tokens" in err
    assert "holds: generate.ms_per_token<=1e6" in err
    code, again, err = sinkctl(*flags, "--quiet")
    assert (code, again, err) == (0, out, "")
    code, shown, _ = sinkctl(*flags, "--json")
    assert json.loads(shown)["generate"]["rows"][0]["text"] + "\n" == out


def test_several_prompts_are_told_apart(sinkctl):
    code, out, _ = sinkctl("stream", "-g", 25, "--prompt", "It was", "--prompt", "She", "-W", 20)
    assert code == 0
    assert {line.split(":")[0] for line in out.splitlines()} == {"1", "2"}


def test_a_reader_that_has_enough_ends_the_run(tmp_path):
    command = f"{sys.executable} -m sinkctl stream -g endless --prompt It -W 20 | head -c 50; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 50
    assert "Traceback" not in done.stderr


def test_a_chat_answers_every_line(sinkctl, talker):
    lines = b"Good evening.\n\nAnd your wife?\n"
    flags = ["stream", "--chat", "-m", talker, "-g", 8, "-W", 20, "--prompt", "Hello"]
    code, out, _ = sinkctl(*flags, "--json", stdin=lines)
    assert code == 0
    turns = [json.loads(line) for line in out.splitlines()]
    assert [turn["user"] for turn in turns] == ["Hello", "Good evening.", "And your wife?"]
    assert all(turn["assistant"] and turn["tokens"] == 8 for turn in turns)
    code, plain, _ = sinkctl(*flags, stdin=lines)
    assert plain == "".join(turn["assistant"] + "\n" for turn in turns)


def test_what_a_checkpoint_says_and_a_stream_does_not_do_is_a_note(sinkctl, talker, monkeypatch):
    said = {"repetition_penalty": 3.0, "num_beams": 3, "do_sample": False}
    (talker / "generation_config.json").write_text(json.dumps(said))
    flags = ["stream", "-m", talker, "--prompt", "It was", "-W", 20]
    code, plain, err = sinkctl(*flags, "-g", 40)
    assert (code, err.count("note: num_beams 3")) == (0, 1)
    assert "greedy, repetition-penalty 3.0" in err
    assert sinkctl(*flags, "-g", 40, "--repetition-penalty", 1)[1] != plain
    code, _, err = sinkctl(*flags, "-g", 12, "--dry-run")
    assert "note: num_beams 3" in err
    assert "repetition_penalty: 3.0: the checkpoint's generation config" in err
    code, _, err = sinkctl(*flags, "-g", 3, "--chat", stdin=b"")
    assert (code, err.count("note: num_beams 3")) == (0, 1)
    monkeypatch.setattr("sinkctl.cli.stopping.Stopping.asked", lambda self: True)
    code, _, err = sinkctl(*flags, "-g", "endless")
    assert (code, err.count("note: num_beams 3")) == (130, 1)


def test_dry_runs_show_the_plan(sinkctl, talker):
    for flags in (["-g", "endless"], ["--chat", "-m", talker]):
        code, out, err = sinkctl("stream", *flags, "--dry-run")
        assert code == 0
        assert "task: generate" in out
        assert "cache of" in err


def test_bad_input_is_one_line_and_an_exit_code(sinkctl, talker, tmp_path, subtests):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "book.txt").write_text("A text.")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    cases = [
        (["-g", "soon"], 2, "--generate soon: input should be a valid integer"),
        (["-g", 0], 2, "--generate 0: input should be"),
        (["-g", 5, tmp_path / "book.txt"], 2, "--prompt-file gives a prompt"),
        (["-g", 5, "--limit", 3], 2, "--limit is for scoring"),
        (["--temperature", 1, tmp_path / "book.txt"], 2, "--temperature is for generation"),
        (["-g", 5, "--temperature", "hot"], 2, "--temperature hot: input should be a valid number"),
        (["-g", 5, "--top-p", 2], 2, "--top-p 2: input should be less than or equal to 1"),
        (["-g", 5, "--set", "sampling.config.num_beams=2"], 2, "sampling.config.num_beams: cannot be set; a stream"),
        (["-g", 5, "-p", "4+9", "-p", "0+9"], 2, "under one policy"),
        (["-g", "endless", "-p", "dense"], 2, "endless text has no end"),
        (["-g", 5, "--prompt-file", tmp_path / "none.txt"], 3, "none.txt"),
        (["-g", 5, "--prompt-file", tmp_path / "latin.txt"], 3, "latin.txt"),
        (["-g", 5, "--prompt-file", tmp_path / "empty.jsonl"], 3, "no text in it"),
        (["-g", 5, "--prompt-file", tmp_path / "book.txt", "--field", "x"], 2, "--field x"),
        (["-g", 5, "--system", "Hello"], 2, "add --chat"),
        (["-g", 5, "--fail-on", "perplexity<=3"], 2, "--fail-on perplexity"),
        (["-g", 5, "--fail-on", "generate.ms_per_token<=0"], 1, "generate.ms_per_token is"),
        (["-g", 5, "--resume", tmp_path], 2, "no run folder"),
        (["-g", 5, "--set", "sampling.sead=1"], 2, "did you mean 'seed'"),
        (["--chat"], 3, "no chat template"),
        (["--chat", "-m", talker, "-o", tmp_path / "out"], 2, "keeps no run folder"),
        (["--questions", tmp_path / "none.jsonl"], 3, "none.jsonl"),
        (["--questions", tmp_path / "book.txt"], 2, "no .jsonl file"),
        (["--questions", "lines", "-g", 5], 2, "runs of their own"),
        (["--questions", "lines", "--set", "kep=true"], 2, "--set kep=true: no such field; did you mean 'keep'"),
        (["-g", "endless", "--json"], 2, "--json shows a finished run"),
    ]
    for arguments, expected, words in cases:
        with subtests.test(arguments=list(map(str, arguments))):
            code, _, err = sinkctl("stream", *arguments, stdin=b"")
            lines = [line for line in err.splitlines() if line.startswith("sinkctl: ")]
            assert code == expected, err
            assert len(lines) == 1
            assert words in lines[0]
