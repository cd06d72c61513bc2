"""Names that the shell completes: recipes, suites, mechanisms and metrics. Importing any of this imports no torch."""

from collections.abc import Callable, Iterable

SUITES = "bench/"


def recipes(incomplete: str) -> list[str]:
    """Of the built-in ones; files are completed by the shell."""
    from sinkctl.recipe.named import built_in

    return _begun(built_in(), incomplete)


def suites(incomplete: str) -> list[str]:
    """What `bench` takes, by its short name."""
    from sinkctl.recipe.named import built_in

    return _begun((name.removeprefix(SUITES) for name in built_in() if name.startswith(SUITES)), incomplete)


def mechanisms(incomplete: str) -> list[str]:
    """What --to takes, without a recipe from scratch."""
    from sinkctl.recipe.schema import REGISTERS, SINKS

    return _begun((*(kind for kind, sink in SINKS.items() if not sink.from_scratch), *REGISTERS), incomplete)


def metrics(task: str) -> Callable[[str], list[str]]:
    """What --fail-on of a task takes, up to the sign."""

    def known(incomplete: str) -> list[str]:
        from importlib import import_module

        checked = import_module(f"sinkctl.check.{task}")
        return _begun(checked.measured([]) if task == "stream" else checked.METRICS, incomplete)

    return known


def _begun(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
