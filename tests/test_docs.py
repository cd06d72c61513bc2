"""The site of docs/ builds, every link in it leads somewhere, and its pages of the code are all there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_site_builds_without_a_broken_link_and_has_a_page_for_every_part(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    from sinkctl.sinks import SINKS

    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "--kv-recent" in (tmp_path / "commands/stream/index.html").read_text(encoding="utf-8")
    assert "Zhang et al. 2023" in (tmp_path / "policies/heavy_hitter/index.html").read_text(encoding="utf-8")
    assert {path.name for path in (tmp_path / "mechanisms").iterdir()} == set(SINKS)
    pages = {path.stem for path in (ROOT / "sinkctl/metrics").glob("[a-z]*.py")}
    assert {path.name for path in (tmp_path / "metrics").iterdir()} == pages


def test_the_words_that_a_report_explains_are_in_the_glossary():
    from sinkctl.report.html import WORDS

    glossary = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    headings = {line.removeprefix("## ").replace(" and ", ", ") for line in glossary.splitlines() if line[:3] == "## "}
    assert set(WORDS) <= headings
