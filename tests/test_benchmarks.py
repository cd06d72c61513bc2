"""The scripts in benchmarks/: how each is asked for help, before anything that takes seconds."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "benchmarks"
# All in one process, in which torch cannot be imported.
HELPED = """
import runpy, sys
from contextlib import redirect_stdout
from io import StringIO

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers"):
            raise ImportError(f"{name} before the flags are read")

sys.meta_path.insert(0, Blocked())
for path in sys.argv[1:]:
    sys.argv, said = [path, "--help"], StringIO()
    try:
        with redirect_stdout(said):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, path
    else:
        raise AssertionError(f"{path}: reads no flags")
    assert "usage: " in said.getvalue(), path
"""


def test_every_script_says_what_its_flags_are_without_torch():
    scripts = [path for path in sorted(SCRIPTS.glob("*.py")) if '__name__ == "__main__"' in path.read_text("utf-8")]
    assert len(scripts) > 25
    asked = [sys.executable, "-c", HELPED, *map(str, scripts)]
    done = subprocess.run(asked, cwd=SCRIPTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
