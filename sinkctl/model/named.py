"""What a model's name means: the built-in model, a folder, a GGUF file, or a Hub id. Imports no torch."""

from pathlib import Path
from typing import Literal, NamedTuple

DEMO = Path(__file__).parent / "demo"
CONFIG = "config.json"
GGUF = ".gguf"
WITHIN = "#"  # FOLDER#FILE: one GGUF file of a folder or of a Hub repository

Form = Literal["demo", "folder", "gguf", "hub"]


class Named(NamedTuple):
    """Where a name leads. `folder` also stands for a path that is none: what is wrong with it, the check says."""

    form: Form
    source: str  # a folder, or a Hub id
    file: str | None = None  # of a GGUF: its name in `source`
    local: bool = True  # on this disk, not of the Hub

    @property
    def path(self) -> Path:
        """The folder; of a GGUF on this disk the file."""
        return Path(self.source) / (self.file or "")


def resolve(name: str) -> Named:
    """What `name` names, as far as the disk tells; nothing is opened."""
    if name == "demo":
        return Named("demo", str(DEMO))
    path = Path(name)
    if is_gguf(path):
        return Named("gguf", str(path.parent), path.name)
    if path.is_dir() and len(only := gguf_files(path)) == 1:
        return Named("gguf", name, only[0].name)
    source, within, file = name.rpartition(WITHIN)
    if within and source and file.lower().endswith(GGUF) and not path.exists():
        return Named("gguf", source, file, local=_looks_like_path(source))
    return Named("folder", name) if _looks_like_path(name) else Named("hub", name, local=False)


def gguf_files(folder: Path) -> list[Path]:
    """Those of a folder that is no Transformers checkpoint."""
    if (folder / CONFIG).exists():
        return []
    return sorted(path for path in folder.iterdir() if is_gguf(path))


def is_gguf(path: Path) -> bool:
    return path.suffix.lower() == GGUF and path.is_file()


def absolute(name: str) -> str:
    """A file or folder by its full path; what is none (standard input, demo, a Hub id) stays."""
    if name in ("-", "demo"):
        return name
    found = resolve(name)
    if found.form == "gguf" and found.local and not Path(name).exists():
        return f"{Path(found.source).resolve()}{WITHIN}{found.file}"
    path = Path(name)
    if not path.exists():
        return name
    return str(path.resolve() if path.is_file() or path.is_dir() else path.absolute())  # /dev/fd/63 leads to no name


def _looks_like_path(name: str) -> bool:
    return Path(name).exists() or name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1
