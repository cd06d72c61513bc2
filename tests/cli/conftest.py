"""Running command lines."""

import io
import sys

import pytest

from sinkctl.cli import main


@pytest.fixture
def sinkctl(monkeypatch, capfd):
    """Run a command line in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sinkctl", *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return run
