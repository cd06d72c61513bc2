"""`sinkctl doctor`."""

import json
import sys
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    clear: Annotated[
        bool, typer.Option("--clear-cache", help="Remove the tokenizers that were kept of GGUF files, and end.")
    ] = False,
) -> None:
    """Versions, devices, and which kernels will run here and why: paste it into a bug report."""
    from sinkctl.model.kept import cache_folder, cache_size, clear_cache

    folder = cache_folder()
    size = 0 if folder is None else cache_size(folder)
    if clear:
        if folder is not None:
            clear_cache(folder)
        left = 0 if folder is None else cache_size(folder)
        in_use = f"; {left / 2**20:,.0f} MiB are in use by a run" if left else ""
        print(f"{folder or 'no cache'}: {(size - left) / 2**20:,.0f} MiB removed{in_use}")
        return
    from sinkctl.kernels.doctor import kernels_here
    from sinkctl.result.environment import environment
    from sinkctl.result.versions import outside, tested

    cache = {"folder": str(folder or "off"), "bytes": size, "clear with": "sinkctl doctor --clear-cache"}
    found = {**environment(), "tested with": tested(), "kernels": kernels_here(), "cache": cache}
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
