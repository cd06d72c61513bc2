"""The same pictures by matplotlib."""

import subprocess
import sys
import xml.etree.ElementTree as ET

from example_result import curve, policy, result, stream_result
from measured_example import HOSTILE, checkpoint, input_score, layer, measure_result, patches

from sinkctl.report.plots import write_plots


def test_a_file_a_picture_under_safe_names(tmp_path):
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
    bare = input_score(layers=[layer(0, massive=None)], surface=None, queries=[])
    report = measure_result(*(checkpoint(f"_at $ {step}", step, inputs=[bare], mixing=[]) for step in (0, 8, 4000)))
    first, second = (write_plots(report, tmp_path / name, "svg") for name in "ab")
    assert [path.stem for path in first[:3]] == ["emergence", "compared-alpha", "alpha"]
    assert "alpha-at-4000-natural-bos" in {path.stem for path in first}
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert {ET.parse(path).getroot().tag for path in first} == {"{http://www.w3.org/2000/svg}svg"}


def test_a_stream_has_its_curve_and_a_result_without_pictures_none(tmp_path):
    written = write_plots(stream_result([policy("4+252", curve([30.0] * 3))]), tmp_path, "svg")
    assert [path.name for path in written] == ["perplexity.svg", "memory.svg"]
    assert write_plots(result(), tmp_path / "none") == []


def test_what_draws_is_imported_only_when_it_draws():
    code = "import sys, sinkctl.report.plots, sinkctl.report.html, sinkctl.report.console\n"
    code += "assert not {'matplotlib', 'jinja2', 'uniplot'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
