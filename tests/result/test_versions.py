"""The ranges that `doctor` names are those of pyproject.toml, and a version outside is told."""

import importlib.metadata
import tomllib
from pathlib import Path

from sinkctl.model.undocumented import TAKEN
from sinkctl.result import versions


def test_the_ranges_are_those_of_pyproject_and_what_is_undocumented_was_seen_at_both_ends(monkeypatch):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: project["dependencies"])
    ranges = versions.tested()
    assert set(ranges) == {"torch", "transformers"}
    inside = versions.Requirement(f"transformers{ranges['transformers']}").specifier
    for taken in TAKEN:
        assert taken.oldest in inside
        assert taken.newest in inside


def test_a_version_outside_its_range_is_told_once(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["torch>=2.11,<2.16", "transformers>=5.15,<5.25"])
    here = {"torch": "2.15.0+cu130", "transformers": "5.25.0"}
    monkeypatch.setattr(importlib.metadata, "version", here.get)
    (said,) = versions.outside()
    assert "transformers 5.25.0" in said
    assert ">=5.15" in said
