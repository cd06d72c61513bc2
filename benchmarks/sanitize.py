"""compute-sanitizer over every own kernel, once each, on a GPU.

    python benchmarks/sanitize.py [--tools memcheck racecheck] [--only NAME …]

Each tool runs this script once more under itself, with no caching of memory by torch. Names and shapes of calls are
those of tests/kernel_calls.py. A row a tool; exit code 1 where one found something or failed. No result of it is known
yet.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from kernel_calls import CASES

TOOLS = ("memcheck", "racecheck")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--tools", nargs="*", choices=TOOLS, default=TOOLS)
    arguments.add_argument("--only", nargs="*", default=[""], help="parts of names of calls")
    arguments.add_argument("--inside", action="store_true", help="call the kernels; what a tool is given")
    options = arguments.parse_args()
    names = [name for name in CASES if any(part in name for part in options.only)]
    if not names:
        sys.exit(f"--only {' '.join(options.only)}: no call is named so; there are {', '.join(CASES)}")
    if options.inside:
        return inside(names)
    if shutil.which("compute-sanitizer") is None:
        sys.exit("compute-sanitizer is not in PATH; it comes with the CUDA toolkit")
    found = 0
    for tool in options.tools:
        begun = time.perf_counter()
        run = [sys.executable, __file__, "--inside", "--only", *options.only]
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--print-limit", "20", *run]
        done = subprocess.run(command, env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, check=False)
        print(f"{tool}: rc {done.returncode}, {time.perf_counter() - begun:.0f} s", flush=True)
        found |= done.returncode
    return int(found != 0)


def inside(names: list[str]) -> int:
    for name in names:
        with torch.device("cuda"):
            CASES[name]()
        torch.cuda.synchronize()
        print(name, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
