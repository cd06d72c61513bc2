"""The versions of torch and transformers that sinkctl is tested with: those that pyproject.toml allows, both ends."""

import importlib.metadata

from packaging.requirements import Requirement

TESTED = ("torch", "transformers")


def tested() -> dict[str, str]:
    """Library → the range, as pyproject.toml writes it: ">=5.15,<5.25"."""
    try:
        wanted = [Requirement(line) for line in importlib.metadata.requires("sinkctl") or ()]
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return {}
    return {one.name: str(one.specifier) for one in wanted if one.name in TESTED and one.marker is None}


def outside() -> list[str]:
    """A line on each library that is installed in a version outside its range."""
    said = []
    for name, range_ in tested().items():
        here = importlib.metadata.version(name)
        if not Requirement(f"{name}{range_}").specifier.contains(here, prereleases=True):
            said.append(f"{name} {here} is outside the range that sinkctl is tested with ({range_})")
    return said
