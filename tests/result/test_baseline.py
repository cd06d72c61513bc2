"""Baselines in files: read back as written, and refused where they say nothing about this run."""

import json

import pytest
from bench_rows import MACHINE, result, row, run, timed

from sinkctl.errors import BaselineError, UsageError
from sinkctl.result.baseline import mismatch, read, save
from sinkctl.result.compare import Tolerance


def test_a_baseline_reads_back_as_it_was_written(tmp_path):
    wrote = result(timed(1))
    save(wrote, tmp_path / "baselines" / "gpu.json")
    assert read(tmp_path / "baselines" / "gpu.json") == wrote
    save(wrote, tmp_path / "result.json")
    assert read(tmp_path) == wrote  # a run folder
    with pytest.raises(UsageError, match="cannot be written"):
        save(wrote, tmp_path / "result.json" / "below.json")


def test_what_is_no_baseline_is_refused_in_one_line(tmp_path):
    good = json.loads(result(timed(1)).model_dump_json())
    torn = json.loads(json.dumps(good))
    del torn["bench"]["rows"][0]["samples"]
    wrong = {
        "is no JSON": "{",
        "is not the result of `sinkctl bench`": json.dumps({**good, "task": "stream"}),
        "schema version 7": json.dumps({**good, "schema_version": 7}),
        "bench.rows.0.samples": json.dumps(torn),
        "no such file or folder": None,
    }
    for words, text in wrong.items():
        path = tmp_path / "baseline.json"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        with pytest.raises(BaselineError) as error:
            read(path)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 3


def test_another_machine_or_another_version_is_named():
    here = MACHINE.model_copy(update={"device": "another GPU", "versions": {"torch": "2.14.0"}})
    assert mismatch(run([], here), run([])) == [
        "device was a GPU, here another GPU",
        "torch was 2.13.0, here 2.14.0",
        "cuda was 13.0, here absent",
    ]
    assert mismatch(run([]), run([])) == []


def test_gated_rows_that_the_baseline_lacks_or_has_at_other_settings_are_named():
    now = run([row([[1.0]]), row([[1.0]], case="decode"), row([[1.0]], case="train")])
    before = run([row([[1.0] * 5], size={"sinks": 4, "window": 252, "chunk": 64})])
    gates = [Tolerance("stream.ms", 5), Tolerance("decode.4+252.ms", 5)]
    assert mismatch(now, before, gates) == [
        "stream.4+252.ms had chunk 64, here unset",
        "decode.4+252.ms is not in it",
    ]
    few = run([row([[1.0, 1.0], [1.0, 1.0]])])
    assert mismatch(now, few, gates[:1]) == ["stream.4+252.ms has 4 samples there, too few"]
    wide, narrow = ({"stream": {"width": width, "windows": [width]}} for width in (128, 64))
    same = run([row([[1.0] * 5])])
    here, there = now.model_copy(update={"cases": wide}), same.model_copy(update={"cases": narrow})
    assert mismatch(here, there, gates[:1]) == ["stream had width 64, here 128"]
    assert mismatch(now, before) == []
