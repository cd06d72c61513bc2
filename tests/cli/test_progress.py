"""Progress where there is no terminal: plain lines, not too many."""

import io
from types import SimpleNamespace

from rich.console import Console

from sinkctl.cli import progress


def lines(monkeypatch, quiet: bool = False, found: bool = True) -> list[str]:
    clock = iter(range(0, 1000, 4))  # every call four seconds later
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    with progress.parts_shown(Console(file=out, quiet=quiet), found=found) as say:
        say(SimpleNamespace(what="inputs", share=0.0, seconds_left=190.0, found=()))
        for number in range(1, 7):
            now = SimpleNamespace(what="costs", share=number / 8, seconds_left=None, found=())
            say(now if number != 2 else SimpleNamespace(**{**vars(now), "found": ("75 % of heads sink.",)}))
    return out.getvalue().splitlines()


def test_an_estimate_comes_first_then_a_line_every_ten_seconds(monkeypatch):
    said = lines(monkeypatch)
    assert said[0] == "inputs, about 3 min 10 s left"
    assert "so far: 75 % of heads sink." in said
    rest = [line for line in said[1:] if "so far" not in line]
    assert len(rest) == 2
    assert all(line[0].isdigit() and "costs, about" in line for line in rest)


def test_quiet_says_nothing_and_json_no_findings(monkeypatch):
    assert lines(monkeypatch, quiet=True) == []
    assert not [line for line in lines(monkeypatch, found=False) if "so far" in line]
