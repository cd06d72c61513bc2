"""The recipes that come with the package."""

import difflib
from pathlib import Path

from sinkctl.errors import UsageError
from sinkctl.small_file import is_pipe, is_there

_PACKAGE = Path(__file__).parent.parent


def folder() -> Path:
    """Where they are: inside an installed package, or at the top of a checkout."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def built_in() -> dict[str, Path]:
    """Name, such as stream/book, → file."""
    place = folder()
    return {str(path.relative_to(place).with_suffix("")): path for path in sorted(place.rglob("*.yaml"))}


def find(name: str) -> Path:
    """A file or a pipe as it is, or a built-in recipe by its name."""
    path = Path(name)
    if is_there(path):
        return path
    known = built_in()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else "`sinkctl recipe ls` lists the built-in ones"
    raise UsageError(f"{name}: no such file or built-in recipe; {hint}")


def called(path: str | Path) -> str:
    """What a run is called after its recipe; a pipe has only the number that the shell gave it."""
    stem = Path(path).stem
    return f"pipe-{stem}" if is_pipe(path) else stem


def purpose(path: Path) -> str:
    """The first words of a recipe: its first comment that is no editor instruction."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and "yaml-language-server" not in line:
            return line.removeprefix("# ")
    return ""
