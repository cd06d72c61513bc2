"""The same pictures by matplotlib."""

import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from example_result import result
from measured_example import HOSTILE, checkpoint, input_score, layer, measure_result, patches

from sinkctl.errors import UsageError
from sinkctl.report.plots import write_plots


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'sinkctl\[plot\]'"):
        write_plots(measure_result(), tmp_path)


def test_a_file_a_picture_under_safe_names(tmp_path):
    pytest.importorskip("matplotlib")
    hostile = input_score(f"../{HOSTILE}", patches=patches())
    same = hostile.model_copy(update={"layers": [], "queries": [], "surface": None, "patches": None})
    report = measure_result(checkpoint(HOSTILE, inputs=[hostile, same]))
    written = write_plots(report, tmp_path / "plots")
    names = [path.stem for path in written]
    assert len(names) == len(set(names))
    assert {name.split("-")[0] for name in names} == {
        "alpha", "classes", "surface", "layers", "queries", "massive", "norms", "entropy", "patches", "mixing"
    }  # fmt: skip
    assert {path.parent for path in written} == {tmp_path / "plots"}
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert sorted(written) == sorted((tmp_path / "plots").iterdir())


def test_checkpoints_in_training_get_an_emergence_curve_and_svg_is_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    bare = input_score(layers=[layer(0, massive=None)], surface=None, queries=[])
    report = measure_result(*(checkpoint(f"_at $ {step}", step, inputs=[bare], mixing=[]) for step in (0, 8, 4000)))
    first, second = (write_plots(report, tmp_path / name, "svg") for name in "ab")
    assert [path.stem for path in first[:3]] == ["emergence", "compared-alpha", "alpha-1-natural-bos"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert {ET.parse(path).getroot().tag for path in first} == {"{http://www.w3.org/2000/svg}svg"}


def test_a_result_of_another_task_has_no_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    assert write_plots(result(), tmp_path / "none") == []


def test_matplotlib_is_imported_only_when_it_draws():
    code = "import sys, sinkctl.report.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
