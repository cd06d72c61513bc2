"""The house rules that a reader relies on: which way imports point, and who may print."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "sinkctl"
OUTSIDE = {
    "clock",
    "errors",
    "launched",
    "small_file",
    "cache",
    "check",
    "model",
    "recipe",
    "tasks",
    "result",
    "report",
}
# Folder → the folders of ours it may import; recipe → check → load → run → result → report.
MAY_IMPORT = {
    "clock": set(),
    "cuda_context": {"launched"},
    "errors": set(),
    "formats": set(),
    "small_file": set(),
    "launched": set(),
    "kernels": set(),
    "model": {"clock", "errors", "formats", "launched", "kernels"},
    "text": {"errors", "formats", "small_file"},
    "cache": {"errors", "kernels", "model", "metrics"},
    "metrics": {"errors", "kernels", "model"},
    "sinks": {"errors", "kernels", "model", "metrics"},
    "registers": set(),
    "recipe": {"errors", "small_file", "cache", "model", "registers", "sinks"},
    "result": {"clock", "errors", "small_file"},
    "check": {
        "errors",
        "formats",
        "launched",
        "small_file",
        "cache",
        "model",
        "registers",
        "sinks",
        "text",
        "recipe",
        "result",
    },
    "tasks": {
        "clock",
        "errors",
        "launched",
        "small_file",
        "kernels",
        "model",
        "text",
        "cache",
        "metrics",
        "registers",
        "sinks",
        "recipe",
        "result",
    }
    | {"check"},
    "report": {"errors", "result"},
    "api": OUTSIDE,
    "cli": OUTSIDE | {"api", "cuda_context", "kernels", "registers"},
    "__main__": {"cli"},
    "registration": {"registers", "sinks"},
    "__init__": {"api", "registration"},
}


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """Of a source, read once: three tests look at every one."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported(nodes: list[ast.AST]) -> set[str]:
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way_and_only_the_outside_prints(path):
    nodes = nodes_of(path)
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    names = imported(nodes)
    ours = {name.split(".")[1] for name in names if name.startswith("sinkctl.")} - {part, "__version__"}
    assert ours <= MAY_IMPORT[part], f"{part} may not import {sorted(ours - MAY_IMPORT[part])}"
    assert not any(name.split(".")[0] == "click" for name in names), "Typer brings its own click"
    if part not in ("cli", "report"):
        called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert "print" not in called


def test_the_command_line_imports_torch_only_inside_commands():
    for path in (ROOT / "cli").glob("*.py"):
        if path.name == "plan.py":  # imported by a command, after torch
            continue
        heavy = {
            n
            for n in imported(top(path))
            if n.split(".")[0] in ("torch", "transformers") or n.startswith(("sinkctl.api", "sinkctl.model.load"))
        }
        assert not heavy, f"{path.name} imports {heavy}"


def test_a_run_imports_only_its_task():
    """What a Python call imports of the tasks, by following the imports at the top of modules."""
    may = {
        "asking": {"questions", "generate", "stream"},
        "benchmarks": {"bench"},
        "conversion": {"convert", "measure", "stream"},
        "generation": {"generate", "stream"},
        "measurement": {"measure", "stream"},
        "streams": {"stream"},
    }
    for call, tasks in may.items():
        seen, ahead = set(), [f"sinkctl.api.{call}"]
        while ahead:
            path = module(name := ahead.pop())
            if path is None or name in seen:
                continue
            seen.add(name)
            ahead += [part for found in imported(top(path)) for part in (found, found.rpartition(".")[0])]
        reached = {name.split(".")[2] for name in seen if name.startswith("sinkctl.tasks.")}
        folders = {name for name in reached if (ROOT / "tasks" / name).is_dir()}
        assert folders <= tasks, f"{call} imports {sorted(folders - tasks)}"


def top(path: Path) -> list[ast.AST]:
    """A module's imports outside of functions."""
    return [node for node in nodes_of(path)[0].body if isinstance(node, ast.Import | ast.ImportFrom)]


def module(name: str) -> Path | None:
    """The file of a module of ours."""
    path = ROOT.joinpath(*name.split(".")[1:])
    found = [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]
    return found[0] if found and name.startswith("sinkctl") else None


def test_files_stay_short():
    long = {str(p.relative_to(ROOT)): n for p in sources() if (n := len(p.read_text().splitlines())) > 300}
    assert not long


def test_what_transformers_does_not_promise_is_taken_in_one_place():
    """Private names of others and modules below transformers; but for families, and what checkpoints carry."""
    of = {path.relative_to(ROOT).as_posix(): nodes_of(path) for path in sources()}
    nodes = [node for each in of.values() for node in each]
    ours = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    ours |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self"}
    ours |= {node.id for node in nodes if isinstance(node, ast.Name)} | {"_replace", "_asdict", "_fields"}
    others = {"_compiled_call_impl", "_non_persistent_buffers_set", "_dynamo", "_forward_hooks", "_forward_pre_hooks"}
    others |= {"_reset_state"}  # accelerate's; those before are torch's
    for name, nodes in of.items():
        if name.startswith(("kernels/", "model/families/", "sinks/code/")) or name == "model/undocumented.py":
            continue
        below = {n for n in imported(nodes) if n.startswith("transformers.") and n.count(".") > 1}
        assert all(n.startswith("transformers.utils.") for n in below), f"{name}: {below}"
        private = {
            node.attr
            for node in nodes
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        }
        assert not private - ours - others, f"{name}: {private - ours - others}"
