"""The command line: what it prints where, and its exit codes."""

import errno
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import Command
from safetensors.torch import load_file, save_file

from sinkctl.cli import EXAMPLES
from sinkctl.errors import ThresholdError, UnmeasuredError
from sinkctl.model.load import DEMO
from sinkctl.result.store import RunFolder


def test_help_imports_no_torch():
    program = """
import sys
from pathlib import Path
from sinkctl.cli import main
try:
    main()
except SystemExit:
    pass
assert not {"torch", "numpy", "transformers", "sinkctl.model.settings"} & set(sys.modules)
"""
    for command in ("stream", "measure", "convert", "recipe", "doctor"):
        done = subprocess.run([sys.executable, "-c", program, command, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout


def test_the_plan_of_a_benchmark_imports_no_torch():
    program = """
import sys
from pathlib import Path
from sinkctl.cli import main
try:
    main()
except SystemExit:
    pass
assert not {"torch", "transformers"} & set(sys.modules)
"""
    words = [sys.executable, "-c", program, "bench", "startup", "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 rounds in 1 process" in done.stderr


@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("recipe show stream/b", {"stream/book"}),
        ("convert --recipe convert/emergence/b", {"convert/emergence/batch_32"}),
        ("convert --to softm", {"softmax1"}),
        ("convert --to test", {"test_time_registers"}),
        ("bench qual", {"quality"}),
        ("stream --fail-on perp", {"perplexity"}),
        ("measure --fail-on value", {"value_drain"}),
        ("convert --fail-on gap", {"gap_closed"}),
    ],
)
def test_the_shell_completes_names_without_torch(line, among):
    program = """
import sys
from pathlib import Path
from sinkctl.cli import main
sys.argv = ["sinkctl"]
try:
    main()
except SystemExit:
    pass
assert not {"torch", "transformers"} & set(sys.modules)
"""
    asked = {
        "_SINKCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": f"sinkctl {line}",
        "COMP_CWORD": str(line.count(" ") + 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | asked, check=True
    )
    assert among <= set(done.stdout.split())
    assert all(name.startswith(line.split(" ")[-1]) for name in done.stdout.split())


def test_every_help_has_an_example_of_flags_that_exist(sinkctl):
    for name, examples in EXAMPLES.items():
        _, out, _ = sinkctl(name, "--help")
        assert "Examples:" in out
        for example in examples:
            said, command, *words = shlex.split(example)
            assert (said, command) == ("sinkctl", name)
            assert all(word in out for word in words if word.startswith("-")), example


@pytest.mark.parametrize("words", [(), *((name,) for name in EXAMPLES), ("recipe",), ("recipe", "show")])
def test_switches_show_no_value_in_the_help(words, sinkctl):
    code, out, _ = sinkctl(*words, "--help")
    assert (code, "<bool>" in out) == (0, False)


def test_the_cache_rule_is_in_the_help(sinkctl):
    _, out, _ = sinkctl("stream", "--help")
    assert "the first S tokens and the last W" in " ".join(out.replace("│", " ").split())


def wrong_inputs(tmp_path) -> dict[str, tuple[list[str], int, str]]:
    """What → (arguments, exit code, words of the one line)."""
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9 au lait")
    empty = tmp_path / "empty"
    empty.mkdir()
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((DEMO / "config.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((DEMO / "config.json").read_text())
    records = tmp_path / "records.jsonl"
    records.write_text('{"text": "a"}\n{"txt": "b"}\n')
    damaged = tmp_path / "damaged.gz"
    damaged.write_bytes(b"\x1f\x8b\x08 nothing like gzip")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task: stream\nmodell: {}\n")
    plain = tmp_path / "plain.txt"
    plain.write_text("Once upon a time. " * 20)
    odd = tmp_path / "odd.yaml"
    odd.write_text("task: stream\npolicies: 4+60\n")
    finished = tmp_path / "finished"
    finished.mkdir()
    (finished / "result.json").write_text("{}")
    unfinished = tmp_path / "unfinished"
    (unfinished / "state").mkdir(parents=True)
    (unfinished / "state/state.json").write_text('{"step": 1')
    (unfinished / "recipe.yaml").write_text("task: stream\n")
    torn, damaged_model = tmp_path / "torn", tmp_path / "damaged"
    for folder in (torn, damaged_model):
        shutil.copytree(DEMO, folder)
    weights = load_file(DEMO / "model.safetensors")
    del weights["model.layers.1.input_layernorm.weight"]
    save_file(weights, torn / "model.safetensors", metadata={"format": "pt"})
    (damaged_model / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    return {
        "no such text": (["nowhere.txt"], 3, "nowhere.txt"),
        "a folder for a text": ([str(empty)], 3, "is a directory"),
        "not UTF-8": ([str(latin)], 3, "byte 3"),
        "damaged compression": ([str(damaged)], 3, "damaged.gz"),
        "a record without the field": ([str(records)], 3, "records.jsonl:2"),
        "no such model folder": (["-m", "./nowhere"], 3, "no such folder"),
        "a folder that is no checkpoint": (["-m", str(empty)], 3, "config.json"),
        "pickled weights": (["-m", str(pickled)], 3, "--allow-pickle"),
        "no weights": (["-m", str(bare)], 3, "no weights"),
        "an unreachable Hub id": (["-m", "nobody/nothing"], 3, "nobody/nothing"),
        "no such device": (["--device", "cuda:7"], 3, "sinkctl doctor"),
        "a malformed device": (["--device", "gpu"], 2, "--device gpu: auto, cpu, mps, cuda or cuda:N"),
        "a misspelled policy": (["-p", "sink_windw"], 2, "did you mean 'sink_window'"),
        "a window of nothing": (["-W", "0"], 2, "greater than or equal to 1"),
        "the same policy twice": (["-p", "4+60", "-p", "4+60"], 2, "two policies are the same"),
        "a misspelled recipe key": (["-r", str(recipe)], 2, "recipe.yaml:2: modell: no such field; did you mean"),
        "no such recipe": (["-r", "stream/bok"], 2, "did you mean 'stream/book'"),
        "an unknown override": (["--set", "chnk=3"], 2, "did you mean 'chunk'"),
        "a malformed threshold": (["--fail-on", "perplexity<30"], 2, "METRIC<=NUMBER"),
        "an unknown metric": (["--limit", "50", "--fail-on", "perplexty<=30"], 2, "did you mean 'perplexity'"),
        "nothing to resume": (["--resume", str(empty)], 2, "no run folder"),
        "a finished run for an output folder": (["--limit", "50", "-o", str(finished)], 2, "holds a finished run"),
        "policies that are no list": (["-r", str(odd), "-W", "60"], 2, "policies"),
        "flags into a plain value": (["-r", str(odd), "--set", "policies.x=1"], 2, "x lies inside a plain value"),
        "weights that do not fit": (["-m", str(torn)], 3, "input_layernorm.weight is not in the weights"),
        "damaged weights": (["-m", str(damaged_model)], 3, "is damaged or cut short"),
        "a damaged checkpoint": (["--resume", str(unfinished)], 3, "damaged"),
        "a size given twice": (["-p", "4+60", "-W", "30"], 2, "says its own size"),
        "a window for what has none": (["-p", "dense", "-W", "30"], 2, "none of the policies has window"),
        "a window that is no number": (["-W", "abc"], 2, "or input should be 'auto'"),
        "sinks that leave no window": (["-S", "600"], 2, "leave no window in the model's context of 512"),
        "a field of a plain text": ([str(plain), "--field", "x"], 2, "none of the texts is a .jsonl file"),
        "a file for an output folder": (["--limit", "50", "-o", str(latin)], 2, "is a file"),
        "a place that only the kernel knows to be closed": (["-o", "/proc/run"], 2, "/proc cannot be written ("),
        "half a passage": (["--top", "1.5"], 2, "sinkctl: --top 1.5: "),
        "no passage": (["--top", "0"], 2, "sinkctl: --top 0: "),
        "a number that is none": (["--limit=many"], 2, "sinkctl: --limit many: "),
        "a flag without its value": (["--top"], 2, "--top"),
        "lines without a folder": (["--save-as", "csv"], 2, "--save-as csv: lines are kept in a run folder; name one"),
        "lines in no known form": (["--save-as", "xml"], 2, "--save-as xml: input should be 'csv' or 'jsonl'"),
        "recompute past the context": (["-p", "recompute:4+900"], 3, "context of 512"),
    }  # fmt: skip


def test_bad_input_is_one_line_and_an_exit_code(sinkctl, tmp_path, subtests):
    for name, (arguments, code, words) in wrong_inputs(tmp_path).items():
        with subtests.test(name):
            found, out, err = sinkctl("stream", *arguments, "-q")
            assert (found, out) == (code, ""), err
            assert err.count("\n") == 1, err
            assert err.startswith("sinkctl: ")
            assert words in err


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["stream", "--model", "", "text.txt"], "--model"),
        (["stream", "--adapter="], "--adapter"),
        (["stream", ""], "stream"),
        (["stream", "-o", ""], "-o"),
        (["convert", "", "-o", "out"], "convert"),
        (["convert", "demo", "--text", ""], "--text"),
        (["measure", "demo", ""], "demo"),
        (["bench", "--baseline", ""], "--baseline"),
        (["recipe", "show", ""], "show"),
    ],
)
def test_an_empty_word_is_a_usage_error(sinkctl, words, flag):
    code, out, err = sinkctl(*words)
    assert (code, out) == (2, "")
    assert (
        err
        == f"sinkctl: {flag}: what follows is empty (a shell variable that is not set?); say what, or leave it out\n"
    )


def test_empty_names_are_refused_in_python_and_recipes_too(sinkctl):
    for key in ("model.name", "model.adapters.0"):
        data = ["--set", "model.adapters=['']"] if "adapters" in key else ["--set", "model.name=''"]
        code, _, err = sinkctl("stream", *data)
        assert code == 2
        assert err == f"sinkctl: {key.removesuffix('.0')}: is empty; name a folder, a file or a Hub id\n"
    code, _, err = sinkctl("stream", "--set", "text.files=['']")
    assert (code, err) == (3, "sinkctl: the name of a text is empty; name a file, or - for standard input\n")


@pytest.mark.parametrize("words", [("stream", "--windw", "3"), ("strem",), ("recipe", "show")])
def test_a_wrong_word_is_a_usage_error_of_one_line(sinkctl, words):
    code, out, err = sinkctl(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert any(said in err for said in ("--window", "stream", "name"))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("one\ntwo"), 70, "sinkctl: ValueError: one two. This is a fault of sinkctl: please report it"),
        (EOFError(), 70, "sinkctl: EOFError"),
        (MemoryError(), 3, "out of memory (memory does not suffice); fewer tokens"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory:\n you tried 9"), 3, "allocate memory: you tried 9)"),
        (ImportError("b>=2 is required, found b==1."), 3, "do not fit together: b>=2 is required, found b==1; install"),
        (OSError(28, "No space left on device"), 3, "the disk is full; make room"),
        (UnmeasuredError("cost.first_key could not be measured"), 3, "could not be measured"),
        (ThresholdError("perplexity is 3, not <= 1"), 1, "not <= 1"),
    ],
)
def test_only_a_failed_threshold_exits_1(sinkctl, monkeypatch, error, code, said):
    def fail(*_) -> None:
        raise error

    monkeypatch.setattr("sinkctl.recipe.named.find", fail)
    found, out, err = sinkctl("recipe", "show", "stream/book")
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert said in err
    monkeypatch.setenv("SINKCTL_DEBUG", "1")
    assert "Traceback" in sinkctl("recipe", "show", "stream/book")[2]


def test_a_reader_that_has_enough_is_no_failure():
    command = f"set -o pipefail; {sys.executable} -m sinkctl recipe schema | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_whether_a_threshold_holds_is_no_matter_of_who_reads_the_report(sinkctl, monkeypatch, form):
    """Codes of runs whose output nobody reads: 0, and 1 for a threshold that failed."""
    for bound, code in (("perplexity>=1", 0), ("perplexity<=1", 1)):
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "w") as closed:
            monkeypatch.setattr(sys, "stdout", closed)
            assert sinkctl("stream", "--limit", "64", "-p", "1+12", "--fail-on", bound, *form)[0] == code


def test_a_metric_that_came_to_nothing_is_no_failed_threshold(sinkctl):  # the model has no learned sinks
    code, _, err = sinkctl("measure", "--samples", "2", "--no-cost", "--fail-on", "learned_mass<=1", "-q")
    assert code == 3
    assert err == "sinkctl: learned_mass could not be measured\n"


def test_json_goes_to_standard_output_and_a_crossed_threshold_exits_1(sinkctl):
    code, out, err = sinkctl("stream", "--limit", "300", "-W", "60", "--json", "--fail-on", "perplexity<=1")
    assert code == 1
    assert json.loads(out)["stream"]["tokens"] == 300
    assert err.startswith("sinkctl: perplexity is ")


def test_standard_input_is_a_text(sinkctl):
    text = "It was half-past four o'clock, and the land-surveyor said so. " * 20
    code, out, _ = sinkctl("stream", "-", "-W", "60", "--json", stdin=text.encode())
    assert code == 0
    assert json.loads(out)["stream"]["marks"][0]["file"] == "-"


def test_a_run_folder_is_complete_and_its_recipe_runs_again(sinkctl, tmp_path, book, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    desk = tmp_path / "desk"
    desk.mkdir()
    (desk / "book.txt").write_text(book[:3000], encoding="utf-8")
    monkeypatch.chdir(desk)
    assert sinkctl("stream", "book.txt", "--limit", "300", "-p", "4+60", "-p", "0+64", "-o", first, "-q")[0] == 0
    assert {p.name for p in first.iterdir()} == {"recipe.yaml", "result.json", "env.json", "report.html", "nll.npy"}
    monkeypatch.chdir(tmp_path)  # the recipe names its text by a full path
    assert sinkctl("stream", "-r", first / "recipe.yaml", "-o", second, "-q")[0] == 0
    assert (first / "nll.npy").read_bytes() == (second / "nll.npy").read_bytes()
    losses = np.load(first / "nll.npy")
    result = json.loads((first / "result.json").read_text())
    assert losses.shape == (2, 300)
    assert losses.dtype == np.float32
    for row, policy in zip(losses, result["stream"]["policies"], strict=True):
        assert policy["perplexity"] == pytest.approx(np.exp(row.mean(dtype=np.float64)), rel=1e-9)


def test_a_dry_run_prints_the_settled_recipe_and_writes_nothing(sinkctl, tmp_path):
    code, out, err = sinkctl("stream", "--dry-run", "-o", tmp_path / "none")
    assert code == 0
    assert "window: 507" in out
    assert "context 512 − 4 sinks − the query itself" in err
    assert not (tmp_path / "none").exists()


def test_recipes_and_the_doctor(sinkctl, tmp_path):
    _, listed, _ = sinkctl("recipe", "ls")
    assert "stream/book" in listed
    assert sinkctl("recipe", "show", "stream/book")[1].startswith("# yaml-language-server")
    assert sinkctl("recipe", "validate", "stream/book", "stream/sinks")[0] == 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("task: strem\n")
    code, out, err = sinkctl("recipe", "validate", wrong, "stream/book")
    assert (code, out) == (2, "stream/book: valid\n")
    assert "did you mean 'stream'" in err
    wrong.write_text("task: stream\nlimit: 0\nchunk: 0\n")
    code, _, err = sinkctl("recipe", "validate", wrong)
    assert code == 2
    assert [line.split(": input")[0] for line in err.splitlines()] == [
        f"sinkctl: {wrong}:2: limit",
        f"sinkctl: {wrong}:3: chunk",
    ]
    assert json.loads(sinkctl("recipe", "schema")[1])["$schema"]
    assert "kernels" in json.loads(sinkctl("doctor", "--json")[1])


def test_piped_text_is_scored_without_a_word_for_it_and_named(tmp_path, book):
    (tmp_path / "piped.txt").write_text(book[:3000], encoding="utf-8")
    with open(tmp_path / "piped.txt", "rb") as source:
        code, out, err = Command("stream", "--limit", "300", "--json", stdin=source).ended()
    assert code == 0, err
    result = json.loads(out)
    assert {mark["file"] for mark in result["stream"]["marks"]} == {"-"}
    assert result["stream"]["tokens"] == 300


def test_an_empty_pipe_leaves_the_built_in_text():
    reader, writer = os.pipe()
    os.close(writer)
    with open(reader, "rb") as source:
        code, out, err = Command("stream", "--limit", "300", "--json", stdin=source).ended()
    assert code == 0, err
    assert {mark["file"] for mark in json.loads(out)["stream"]["marks"]} == {"built-in text"}


def test_short_commands_make_the_recipes_of_stream(sinkctl):
    for short, long in (
        (("generate", "It was", "-n", "60", "--seed", "7"), ("-g", "60", "--prompt", "It was", "--seed", "7")),
        (("generate", "-p", "4+60", "She"), ("-g", "200", "--prompt", "She", "-p", "4+60")),
        (("ask", "-p", "4+60"), ("--questions", "lines", "-p", "4+60")),
    ):
        assert sinkctl(*short, "--dry-run", "--json")[:2] == sinkctl("stream", *long, "--dry-run", "--json")[:2]
    assert "no chat template" in sinkctl("chat")[2]


@pytest.mark.parametrize(("step", "do"), [("write_result", "go on with --resume {}"), ("write_recipe", "start again")])
def test_a_disk_that_becomes_full_is_told_with_what_to_do(sinkctl, tmp_path, monkeypatch, step, do):
    (tmp_path / "a.txt").write_text("It was a dark and stormy night. " * 20)
    run = tmp_path / "run"

    def refused(folder, *_):
        if step == "write_result":
            folder.save_state({"step": 1}, {})
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunFolder, step, refused)
    code, _, said = sinkctl("stream", tmp_path / "a.txt", "--limit", "60", "-p", "1+12", "-q", "-o", run)
    assert (code, said) == (3, f"sinkctl: {run}: the disk is full; make room, and {do.format(run)}\n")


@pytest.mark.parametrize(
    ("asked", "opened", "said"),
    [
        (("stream", "-m", "copy"), "model.safetensors", "model.safetensors: Permission denied; check who may read"),
        (("stream", "-m", "copy"), "config.json", "copy/config.json: cannot be read (Permission denied); check"),
        (("stream", "-r", "r.yaml"), "r.yaml", "r.yaml: cannot be read (Permission denied); `sinkctl recipe ls`"),
    ],
)
def test_a_file_that_one_may_not_read_is_named(sinkctl, tmp_path, monkeypatch, asked, opened, said):
    shutil.copytree(DEMO, tmp_path / "copy")
    (tmp_path / "r.yaml").write_text("task: stream\n")
    monkeypatch.chdir(tmp_path)
    really = io.open

    def refused(file, *arguments, **named):
        if str(file).endswith(opened):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return really(file, *arguments, **named)

    monkeypatch.setattr(io, "open", refused)  # pathlib's, also where root may read all
    code, _, told = sinkctl(*asked)
    assert code in (2, 3)
    assert (said in told, len(told.splitlines())) == (True, 1), told


def test_a_text_from_another_command_is_read_by_its_descriptor(sinkctl):
    """As a shell writes <(…)."""
    reading, writing = os.pipe()
    os.write(writing, b"It was a dark and stormy night. " * 20)
    os.close(writing)
    code, out, said = sinkctl("stream", f"/dev/fd/{reading}", "-p", "1+12", "--json", "-q")
    os.close(reading)
    assert code == 0, said
    assert json.loads(out)["stream"]["tokens"] > 100


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="a device that Linux has")
def test_output_that_cannot_be_written_is_no_success():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "sinkctl", "recipe", "ls"], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (3, b"sinkctl: the disk is full; make room, and start again\n")
