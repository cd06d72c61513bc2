"""`sinkctl doctor`."""

import json
import sys
from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Versions, devices, and which kernels will run here and why: paste it into a bug report."""
    from sinkctl.kernels.doctor import kernels_here
    from sinkctl.result.environment import environment
    from sinkctl.result.versions import outside, tested

    found = {**environment(), "tested with": tested(), "kernels": kernels_here()}
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for key, value in found.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name, item in value.items():
                print(f"  {name}: {'not installed' if item is None else item}")
        else:
            print(f"{key}: {value if value not in (None, []) else 'none'}")
    for line in outside():
        print(f"note: {line}", file=sys.stderr)
