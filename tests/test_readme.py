"""The README tells the truth: its commands run, its Python runs, its table of models is the tested one."""

import gzip
import json
import re
import shlex
from glob import glob
from pathlib import Path

import pytest
from families import HYBRID, STREAMED
from processes import piped

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[str]:
    return [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines() if line.strip()]


@pytest.fixture
def desk(tmp_path, book, monkeypatch):
    """The files that the README speaks of, small."""
    (tmp_path / "book.txt").write_text(book[:12_000], encoding="utf-8")
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters/one.txt.gz").write_bytes(gzip.compress(book[:2000].encode()))
    (tmp_path / "logs.jsonl").write_text(
        "".join(json.dumps({"message": line}) + "\n" for line in book[:2000].split("\n"))
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_runs(desk, command, sinkctl, in_this_process):
    """Lines of plain `sinkctl …` in this process, one after the other; what is joined by pipes in processes."""
    if "|" in command:
        ends = piped(command)
        assert {code for code, _ in ends} == {0}, ends
        return
    for name, *words in (shlex.split(part) for part in command.split("&&")):
        assert name == "sinkctl"
        arguments = [name for word in words for name in sorted(glob(word) if "*" in word else [word])]
        code, _, said = sinkctl(*arguments)
        assert code == 0, said


def test_the_readme_has_commands():
    assert len(commands()) > 10


def test_the_python_of_the_readme_runs(desk, capsys):
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert "Sink found" in capsys.readouterr().out


def test_the_main_command_of_the_readme_is_the_documented_default(desk):
    (install, test) = blocks("bash")
    assert install.split("&&")[-1].strip() == ".venv/bin/sinkctl stream"
    assert shlex.split(test.split("&&")[-1]) == [".venv/bin/pytest"]


def test_the_models_named_are_the_models_tested():
    listed = re.search(r"Tested: (.*?)\. Layers", README, re.S)[1].replace("\n", " ")
    named = re.sub(r" \(.*?\)", "", listed).split(", ")
    first_of_its_type = {model_type: name for name, (model_type, _) in reversed(STREAMED.items())}
    assert sorted(named) == sorted(first_of_its_type.values())
    assert re.search(r"Hybrids: (.*?)\. Their", README, re.S)[1].replace("\n", " ").split(", ") == list(HYBRID)
