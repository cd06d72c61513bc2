"""`sinkctl bench` on the command line: exit codes, what is kept, what is said."""

import json

import pytest
import yaml

SUITE = {
    "task": "bench", "shape": "tiny", "model": {"device": "cpu"},
    "timing": {"rounds": 5, "warmup": 0, "seconds": 1e-4, "threads": 1},
    "cases": [{"kind": "stream", "windows": [12], "chunks": [8]}, {"kind": "memory", "window": 12, "lengths": [64]}],
}  # fmt: skip


@pytest.fixture
def suite(in_this_process, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SUITE))
    return path


def test_help_says_how_a_regression_is_told(sinkctl):
    code, out, _ = sinkctl("bench", "--help")
    assert code == 0
    said = " ".join(out.replace("│", " ").split())
    assert "with intervals that do not touch" in said
    assert "10 % less of a rate" in said


def test_a_run_passes_its_own_baseline_and_fails_a_better_one(sinkctl, suite, tmp_path, monkeypatch):
    monkeypatch.setattr("sinkctl.tasks.bench.clock.Clock.once", lambda self, run: (run(), 1e-3)[1])  # no noise
    base = tmp_path / "base.json"
    code, out, err = sinkctl("bench", suite, "--save-baseline", base, "-o", tmp_path / "run")
    assert code == 0, err
    assert "as fast as stock" in out
    assert "so far: stream 4+12: sinkctl" in err
    gate = ("--fail-on", "stream.tokens_per_s:95%", "--fail-on", "stream.4+12.stock.tokens_per_s>=1")
    code, _, err = sinkctl("bench", suite, "--baseline", base, *gate)
    assert code == 0, err
    better = json.loads(base.read_text())
    for row in better["bench"]["rows"]:
        if row["way"] == "sinkctl" and row["metric"] == "tokens_per_s":
            row["samples"] = [[1e3 * sample for sample in process] for process in row["samples"]]
    base.write_text(json.dumps(better))
    page = tmp_path / "page.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    code, out, err = sinkctl("bench", suite, "--baseline", base, "--fail-on", "stream.tokens_per_s:50%", "-q")
    assert code == 1
    assert "stream.4+12.tokens_per_s is worse by 99" in err
    assert "::error " in err
    assert page.read_text().startswith("## sinkctl bench: small")


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (("nightly",), 2, "nightly: no such suite or file"),
        (("ci", "stream", "--save-baseline", "b.json"), 2, "a baseline is of one suite"),
        (("pears",), 2, "did you mean 'peers'?"),
        (("ci", "stream", "--json"), 2, "--json prints one result"),
        (("--shape", "tiny", "--model", "other"), 2, "in place of a model"),
        (("--baseline", "a.json", "--against", "main"), 2, "not both"),
        (("--quick", "--rounds", "2"), 2, "one round of one process"),
        (("--on-mismatch", "ignore"), 2, "one of fail, warn, skip"),
        (("--only", "decoding"), 2, "did you mean 'decode'?"),
        (("--fail-on", "strem.tokens_per_s:5%"), 2, "did you mean 'stream'?"),
        (("--fail-on", "stream.tokens_per_s:5"), 2, "METRIC:PERCENT"),
        (("--fail-on", "stream.token_per_s:5%"), 2, "did you mean 'stream.tokens_per_s'?"),
        (("--baseline", "none.json", "--rounds", "1", "--processes", "1"), 2, "no regression from chance"),
        (("--only", "stream", "--fail-on", "decode.ms_per_token:5%"), 2, "this run measures no such thing"),
        (("--shape", "llama-2-70b"), 2, "one of llama-2-7b, llama-3-8b"),
        (("--baseline", "none.json"), 3, "none.json"),
        (("--save-baseline", "no/such/b.json"), 2, "in a folder that exists"),
        (("compare", "one.json"), 2, "two saved results"),
        (("--recipe", "stream/quick"), 2, "a recipe of `sinkctl stream`"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(sinkctl, in_this_process, tmp_path, monkeypatch, asked, code, said):
    monkeypatch.chdir(tmp_path)
    found, out, err = sinkctl("bench", *asked)
    assert found == code, err
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not out


def test_a_wrong_model_leaves_nothing_that_stands_in_the_way_of_a_right_one(sinkctl, in_this_process, tmp_path):
    (tmp_path / "empty").mkdir()
    asked = ("bench", "ci", "--only", "stream", "-o", tmp_path / "run", "--model", tmp_path / "empty")
    code, _, err = sinkctl(*asked)
    assert code == 3
    assert "is an empty folder" in err
    assert not (tmp_path / "run").exists()


def test_another_machine_is_no_comparison_unless_asked_for(sinkctl, suite, tmp_path):
    base = tmp_path / "base.json"
    sinkctl("bench", suite, "--only", "stream", "--save-baseline", base, "-q")
    other = json.loads(base.read_text())
    other["bench"]["machine"]["versions"]["torch"] = "2.0.0"
    base.write_text(json.dumps(other))
    asked = ("bench", suite, "--only", "stream", "--baseline", base, "--fail-on", "stream.tokens_per_s:95%")
    code, _, err = sinkctl(*asked, "-q")
    assert code == 3
    assert "torch was 2.0.0" in err
    code, out, _ = sinkctl(*asked, "--on-mismatch", "skip")
    assert code == 0
    assert "Not compared" in " ".join(out.split())
    code, out, _ = sinkctl(*asked, "--on-mismatch", "warn")
    assert code == 0
    assert "Compared all the same" in " ".join(out.split())


def test_several_suites_have_folders_of_their_own_and_are_compared(sinkctl, suite, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(suite.read_text())
    code, _, err = sinkctl("bench", suite, other, "-o", tmp_path / "runs", "-q")
    assert code == 0, err
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"small", "other"}
    code, out, _ = sinkctl("bench", "compare", tmp_path / "runs/small", tmp_path / "runs/other/result.json")
    assert code == 0
    assert "stream.4+12" in out
    code, out, _ = sinkctl("bench", "compare", tmp_path / "runs/small", tmp_path / "runs/other", "--json")
    assert all(len(values) == 2 for values in json.loads(out).values())


def test_a_dry_run_lists_what_would_be_measured(sinkctl, suite):
    code, out, err = sinkctl("bench", suite, "--dry-run", "--rounds", "4")
    assert code == 0
    assert yaml.safe_load(out)["timing"]["rounds"] == 4
    assert "stream: 4+12, beside stock" in err
    assert "memory: 64" in err
    assert "1 round in 1 process, 1 thread; a sample" in sinkctl("bench", suite, "--dry-run", "--quick")[2]
