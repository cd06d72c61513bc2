"""README and docs tell the truth: their commands run, their Python runs, the models they name are the tested ones."""

import gzip
import json
import re
import shlex
from glob import glob
from pathlib import Path

import pytest
from families import HYBRID, STREAMED
from processes import launched, piped

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str, *pages: Path) -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages or PAGES)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands() -> list[str]:
    """Every line of a block marked `sh`, once."""
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines() if line.strip()]
    return list(dict.fromkeys(lines))


@pytest.fixture
def desk(tmp_path, book, monkeypatch):
    """The files that these pages speak of, small."""
    (tmp_path / "book.txt").write_text(book[:6000], encoding="utf-8")
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters/one.txt.gz").write_bytes(gzip.compress(book[:2000].encode()))
    (tmp_path / "logs.jsonl").write_text(
        "".join(json.dumps({"message": line}) + "\n" for line in book[:2000].split("\n"))
    )
    (tmp_path / "triggers.txt").write_text("whale\nqxz\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", commands())
def test_every_command_that_is_shown_runs(desk, command, sinkctl, in_this_process):
    """Lines of plain `sinkctl …` in this process, one after the other; what is joined by pipes in processes."""
    if "|" in command:
        ends = piped(command)
        assert {code for code, _ in ends} == {0}, ends
        return
    if command.startswith("torchrun"):
        _, _, processes, _, _, *words = shlex.split(command)
        words = [name for word in words for name in sorted(glob(word) if "*" in word else [word])]
        assert [process.ended()[0] for process in launched(words, int(processes))] == [0] * int(processes)
        return
    for name, *words in (shlex.split(part) for part in command.split("&&")):
        assert name == "sinkctl"
        arguments = [name for word in words for name in sorted(glob(word) if "*" in word else [word])]
        code, _, said = sinkctl(*arguments)
        assert code == 0, said


def test_the_readme_is_short_and_the_docs_have_commands():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 200
    assert len(commands()) > 30


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page}: {link}"


def test_the_python_that_is_shown_runs(desk, capsys):
    for block in blocks("python"):
        exec(compile(block, "a page", "exec"), {})
    assert "Sink found" in capsys.readouterr().out


def test_the_main_command_of_the_readme_is_the_documented_default(desk):
    (install, test) = blocks("bash", PAGES[0])
    assert install.split("&&")[-1].strip() == ".venv/bin/sinkctl stream"
    assert shlex.split(test.split("&&")[-1]) == [".venv/bin/pytest"]


def test_the_models_named_are_the_models_tested():
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    listed = re.search(r"Tested: (.*?)\. Layers", page, re.S)[1].replace("\n", " ")
    named = re.sub(r" \(.*?\)", "", listed).split(", ")
    first_of_its_type = {model_type: name for name, (model_type, _) in reversed(STREAMED.items())}
    assert sorted(named) == sorted(first_of_its_type.values())
    assert re.search(r"Hybrids: (.*?)\. Their", page, re.S)[1].replace("\n", " ").split(", ") == list(HYBRID)
