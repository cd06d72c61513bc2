"""Pages that mkdocs makes of the code and of the repository: commands, policies, mechanisms, metrics, findings.

A hook of mkdocs (`hooks:` in mkdocs.yml). It needs sinkctl to be importable, and runs no model.
"""

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


def on_config(config):
    """Put the generated pages where the navigation names their kind."""
    config["pages_made"] = pages()
    for section in config["nav"]:
        for title, entry in section.items():
            if isinstance(entry, str) and entry.startswith("<"):
                section[title] = [name for name in config["pages_made"] if name.startswith(entry.strip("<>") + "/")]
    return config


def on_files(files, config):
    """Add them to the site's files."""
    from mkdocs.structure.files import File

    for name, text in config["pages_made"].items():
        files.append(File.generated(config, name, content=text))
    return files


def pages() -> dict[str, str]:
    """Path in the site → Markdown."""
    made = {"index.md": linked(ROOT / "README.md", [("docs/", ""), ("CONTRIBUTING.md", "contributing.md")])}
    made["contributing.md"] = linked(ROOT / "CONTRIBUTING.md", [])
    made["changelog.md"] = linked(ROOT / "CHANGELOG.md", [])
    made["findings.md"] = findings()
    return made | commands() | policies() | mechanisms() | metrics()


def linked(path: Path, moved: list[tuple[str, str]]) -> str:
    """A file of the repository, its links pointing into the site."""
    text = path.read_text(encoding="utf-8")
    for before, after in moved:
        text = text.replace(f"]({before}", f"]({after}").replace(f'="{before}', f'="{after}')
    return text


def findings() -> str:
    """What was found out about other libraries: the comment that each script begins with."""
    parts = [
        "# Findings in other libraries",
        "Each of these scripts shows one behaviour of another library; run it to see.",
    ]
    for path in sorted((ROOT / "findings").glob("*.sh")):
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        said = " ".join(line.lstrip("# ") for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")])
        parts += [f"## {path.stem.replace('_', ' ')}", said, f"`bash findings/{path.name}`"]
    return "\n\n".join(parts) + "\n"


def commands() -> dict[str, str]:
    """A page a command, from the Typer app."""
    from typer.main import get_command

    from sinkctl.cli import app

    found: dict[str, str] = {}

    def visit(words: list[str], command: Any) -> None:
        for name, child in getattr(command, "commands", {}).items():
            visit([*words, name], child)
        if not hasattr(command, "commands"):
            found[f"commands/{'_'.join(words[1:])}.md"] = command_page(" ".join(words), command)

    visit(["sinkctl"], get_command(app))
    return found


def command_page(name: str, command: Any) -> str:
    """Usage, what it does, and a table of flags for each of the groups that `--help` shows."""
    parts = [f"# {name}", inspect.cleandoc(command.help or "").replace("\b\n", "")]
    if command.epilog:
        examples = "\n".join(line for line in command.epilog.split("\n") if line.startswith("sinkctl"))
        parts.append(f"```text\n{examples}\n```")
    groups: dict[str, list[list[str]]] = {}
    for given in command.params:
        kind = "Arguments" if given.param_type_name == "argument" else getattr(given, "rich_help_panel", None)
        names = [given.metavar or given.name.upper()] if kind == "Arguments" else given.opts
        flags = ", ".join(f"`{name}`" for name in names)
        groups.setdefault(kind or "Options", []).append([flags, getattr(given, "help", "") or ""])
    for kind, rows in groups.items():
        parts += [f"## {kind}", table(["", ""], rows)]
    return "\n\n".join(parts) + "\n"


def policies() -> dict[str, str]:
    """A page a cache policy, from its class."""
    from sinkctl.cache.policies import AnyPolicy

    return {f"policies/{kind}.md": model_page(kind, cls) for kind, cls in kinds(get_args(get_args(AnyPolicy)[0]))}


def mechanisms() -> dict[str, str]:
    """A page a designed sink, from its class."""
    from sinkctl.sinks import SINKS

    return {f"mechanisms/{kind}.md": model_page(kind, cls) for kind, cls in kinds(SINKS.values())}


def kinds(classes: Any) -> list[tuple[str, Any]]:
    """(kind, class) of a pydantic union's members."""
    return [(cls.model_fields["kind"].default, cls) for cls in classes]


def model_page(kind: str, cls: Any) -> str:
    """What a class says of itself, and its settings: default, bound, description."""
    parts = [f"# {kind}", inspect.getdoc(cls) or ""]
    schema = cls.model_json_schema()
    rows = []
    for name, field in schema["properties"].items():
        if name != "kind":
            bounds = [f"{word} {field[key]:g}" for key, word in BOUNDS.items() if key in field]
            default = "required" if name in schema.get("required", ()) else f"`{field.get('default')}`"
            rows.append([f"`{name}`", default, ", ".join(bounds), field.get("description", "")])
    if rows:
        parts += ["## Settings", table(["setting", "default", "bounds", ""], rows)]
    source = Path(inspect.getsourcefile(cls)).relative_to(ROOT)
    return "\n\n".join([*parts, f"Defined in `{source}`."]) + "\n"


BOUNDS = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}


def metrics() -> dict[str, str]:
    """A page a file of metrics: what it says, and its public functions, read without importing it."""
    found = {}
    for path in sorted((ROOT / "sinkctl/metrics").glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
        parts = [f"# {path.stem}", ast.get_docstring(tree) or ""]
        for node in public:
            parts += [f"## `{node.name}`", ast.get_docstring(node) or ""]
        found[f"metrics/{path.stem}.md"] = "\n\n".join([*parts, f"Defined in `{path.relative_to(ROOT)}`."]) + "\n"
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; what would end a cell is escaped."""
    cells = [
        head,
        ["---"] * len(head),
        *([re.sub(r"\s*\n\s*", " ", cell).replace("|", "\\|") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
