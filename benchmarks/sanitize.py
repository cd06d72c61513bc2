"""compute-sanitizer over every own kernel, once each, on a GPU.

    python benchmarks/sanitize.py [--tools memcheck racecheck] [--only NAME …] [--jobs 8]

Names and shapes of calls are those of tests/kernel_calls.py. Several processes share them out: each compiles its own
first, then runs them under each tool, with no caching of memory by torch. A row a call as it is done, and one for a
fault that was planted, which a tool has to find; the last row a tool. Exit code 1 where a tool found something in a
kernel, missed what was planted, or did not come to its end.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOOLS = ("memcheck", "racecheck")


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="*", choices=TOOLS, default=TOOLS)
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names of calls")
    parser.add_argument("--jobs", type=int, default=8, help="processes at a time")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds a process may take")
    parser.add_argument("--inside", nargs="*", help="call these kernels; what a tool is given")
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from kernel_calls import CASES as IN_TRITON
from kernel_calls import HOPPER_ALONE, IN_CUDA

CASES = IN_TRITON | HOPPER_ALONE | IN_CUDA
PLANTED = "planted"
# What memcheck finds, and what racecheck finds: the last number of a block is another warp's.
SOURCE = """
extern "C" __global__ void write(float *x) { x[4096] = 1; }
extern "C" __global__ void race(float *x) {
    __shared__ float shared[128];
    shared[threadIdx.x] = threadIdx.x;
    x[threadIdx.x] = shared[127 - threadIdx.x];
}
"""
FAULTS = {"memcheck": "write", "racecheck": "race"}
DONE, MARK = "call: ", "========= "  # what a tool puts in front of its lines
HARMLESS = ("COMPUTE-SANITIZER", "ERROR SUMMARY", "RACECHECK SUMMARY", "Error: process didn't terminate", "Target app")
begun = time.perf_counter()
printing = threading.Lock()


def say(*words: str) -> None:
    with printing:
        print(f"[{time.perf_counter() - begun:4.0f} s] {' '.join(words)}", flush=True)


def main() -> int:
    options = flags()
    if options.inside:
        return inside(options.inside)
    names = [name for name in CASES if any(part in name for part in options.only)]
    if not names:
        sys.exit(f"--only {' '.join(options.only)}: no call is named so; there are {', '.join(CASES)}")
    if shutil.which("compute-sanitizer") is None:
        sys.exit("compute-sanitizer is not in PATH; it comes with the CUDA toolkit")
    if not torch.cuda.is_available():
        sys.exit("no CUDA device")
    shares = [names[first :: options.jobs] for first in range(min(options.jobs, len(names)))]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda share: watched(None, share, options.limit), shares))
        say("compiled")
        work = [(tool, share) for tool in options.tools for share in [*shares, [f"{PLANTED}_{FAULTS[tool]}"]]]
        found = list(pool.map(lambda each: (each[0], watched(*each, options.limit)), work))
    right = True
    for tool in options.tools:
        told = {name: lines for who, part in found if who == tool for name, lines in part.items()}
        planted = told.pop(f"{PLANTED}_{FAULTS[tool]}")
        faults, missing = [name for name in told if told[name]], [name for name in names if name not in told]
        say(f"{tool}: {len(told)} of {len(names)} calls, {len(faults)} with a finding {faults}, not done {missing};",
            f"the planted fault was {'found' if planted else 'MISSED'}")  # fmt: skip
        right &= bool(planted) and not faults and not missing
    return int(not right)


def watched(tool: str | None, names: list[str], limit: float) -> dict[str, list[str]]:
    """What the tool said of each call that was done; of a planted fault what it said until the process ended."""
    command = [sys.executable, __file__, "--inside", *names]
    if tool is not None:
        quiet = ["--report-api-errors", "no"] if tool == "memcheck" else []
        command = ["compute-sanitizer", "--tool", tool, "--print-limit", "20", *quiet, *command]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    killer = threading.Timer(limit, run.kill)
    killer.start()
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    last: list[str] = []
    for line in run.stdout:
        last = [*last[-14:], line.rstrip()]
        if line.startswith(MARK) and line[len(MARK) :].strip() and not line[len(MARK) :].startswith(HARMLESS):
            lines.append(line.rstrip())
        elif line.startswith(DONE):
            name = line.removeprefix(DONE).strip()
            found[name], lines = lines, []
            if tool is not None:
                say(f"{tool:10}{name:28}", "nothing found" if not found[name] else "\n".join(found[name]))
    code = run.wait()
    killer.cancel()
    if names[0].startswith(PLANTED):
        found = {names[0]: [line for each in found.values() for line in each] + lines}
        say(f"{tool:10}{names[0]:28}", *(found[names[0]][:1] or ["MISSED", *last]))
    elif set(names) - set(found) or (code and tool is None):
        say(f"{tool}: rc {code} after {list(found)} of {names}:", "\n".join(last))
    return found


def inside(names: list[str]) -> int:
    for name in names:
        if name.startswith(PLANTED):
            kernel = torch.cuda._compile_kernel(SOURCE, name.removeprefix(f"{PLANTED}_"))
            kernel((1, 1, 1), (128, 1, 1), (torch.zeros(128, device="cuda"),))
        else:
            with torch.device("cuda"):
                CASES[name]()
        torch.cuda.synchronize()
        print(f"{DONE}{name}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
