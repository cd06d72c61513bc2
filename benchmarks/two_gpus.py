"""Two GPUs against one, in one call: training, a corpus, a model by tensor parallel and by layers, a long sample.

    python benchmarks/two_gpus.py --model SMOLLM2 --novels FOLDER [--shape llama-2-7b] [--only training corpus …]
    python benchmarks/two_gpus.py --small        # the same on a CPU, in gloo, with models and texts that are small

Every line is a run of the real command, in processes that torchrun or `accelerate launch` starts, held against the same
command in one. A run that fails is a line too, and the rest goes on; the exit code says so at the end. `--novels` is a
folder of plain texts, of which eight are taken. About 8 minutes on two H200, most of them loading and importing.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

DEMO, STORIES = ROOT / "sinkctl/model/demo", ROOT / "tests/data/stories260K"
ONE = [sys.executable, "-m", "sinkctl"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "sinkctl"]
SHARDED = [
    sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--use_fsdp",
    "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "--mixed_precision", "no",
    "--dynamo_backend", "no", "-m", "sinkctl",
]  # fmt: skip


class Bench:
    """Runs commands into folders of `work`, and takes down what they showed."""

    def __init__(self, work: Path, small: bool):
        self.work, self.small = work, small
        self.device = ["--device", "cpu"] if small else []
        self.failed = False

    def run(self, name: str, launcher: list[str], words: list) -> tuple[dict, Path]:
        """(result.json, the run's folder); RuntimeError with the last words of one that fails."""
        out = self.work / name
        shutil.rmtree(out, ignore_errors=True)
        began = time.monotonic()
        environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **os.environ}
        command = [*launcher, *map(str, words), *self.device, "-o", str(out), "-q"]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=550)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if ended.returncode:
            said = [line for line in ended.stderr.splitlines() if line.startswith("sinkctl:")] or [ended.stderr[-1500:]]
            raise RuntimeError(f"{name}: rc {ended.returncode}: {said[0]}")
        return json.loads((out / "result.json").read_text()), out

    def part(self, title: str, measured: Callable[["Bench"], None]) -> None:
        """One part of the table; what goes wrong in it is a line."""
        try:
            measured(self)
        except Exception as error:  # the parts behind it are worth having
            self.row(title, "", "", False, " ".join(str(error).split())[:300])

    def row(self, what: str, one: str, two: str, holds: bool | None, said: str) -> None:
        """A line, printed at once; `holds`: whether what must be so is so, None where nothing must."""
        self.failed |= holds is False
        said = said if holds is None else f"{'ok' if holds else 'FAILED'}: {said}"
        print(f"| {what} | {one} | {two} | {said} |", flush=True)


def measurement(result: dict, name: str) -> float:
    """The median of what a run measured by this name."""
    return float(np.median(next(each["samples"] for each in result["measurements"] if each["name"] == name)))


def training(bench: Bench, model: str) -> None:
    """DDP and FSDP2 against one process: losses of 20 steps, the first and all, seconds a step.

    Rounding grows from step to step, as Adam divides small gradients by their own size: how far one GPU comes from
    itself in micro-batches of another size is what two are held to.
    """
    text, small = DEMO / "text.txt", bench.small
    batch = 4 if small else 16
    words = [
        "convert", model, "--to", "sink_logit", "--text", text, "--train-text", text, "--steps", 6 if small else 20,
        "--batch", batch, "--length", 32 if small else 1024, "--no-eval", "--no-control", "--lr", 1e-4,
        "--set", "training.sink_lr=0.0001", "--set", "calibration.samples=4", "--set", "calibration.window=64",
    ]  # fmt: skip
    for dtype, most in (("float32", 1e-5),) if small else (("float32", 1e-5), ("bfloat16", 2e-3)):
        said = [*words, "--dtype", dtype]
        alone = curve_of(bench, f"train-one-{dtype}", ONE, [*said, "--set", f"training.micro_batch={batch // 2}"])
        other = curve_of(bench, f"train-other-{dtype}", ONE, [*said, "--set", f"training.micro_batch={batch // 4}"])
        spread = apart(alone, other)
        for name, launcher in (("DDP", TWO), ("FSDP2", SHARDED)):
            if name == "FSDP2" and small:
                bench.row("FSDP2", "", "", None, "left out: accelerate divides weights among accelerators alone")
                continue
            try:
                curve = curve_of(bench, f"train-{name}-{dtype}", launcher, said)
            except RuntimeError as error:
                bench.row(f"{name}, {dtype}", "", "", False, str(error)[:300])
                continue
            steps = [each["seconds"] / len(each["loss"]) for each in (alone, curve)]
            bench.row(
                f"{name}, {dtype}: a step, compiling and all", f"{steps[0]:.4f} s",
                f"{steps[1]:.4f} s ({steps[0] / steps[1]:.2f}×)", apart(alone, curve) <= max(most, 2 * spread),
                f"losses apart by {abs(curve['loss'][0] - alone['loss'][0]):.1e} nats at the first step, by "
                f"{apart(alone, curve):.1e} at most; one GPU in micro-batches of another size by {spread:.1e}",
            )  # fmt: skip


def curve_of(bench: Bench, name: str, launcher: list[str], words: list) -> dict:
    """The losses of a training, and its seconds."""
    return bench.run(name, launcher, words)[0]["convert"]["training"]["curves"][0]


def apart(one: dict, other: dict) -> float:
    """The most by which losses of a step differ, in nats."""
    return max(abs(a - b) for a, b in zip(one["loss"], other["loss"], strict=True))


def corpus(bench: Bench, model: str, novels: list[Path]) -> None:
    """Eight files by one process and by two: bytes, tokens a second."""
    words = ["stream", *novels, "--model", model, "--each", "file", "-p", "4+252"]
    found = [bench.run(f"corpus-{name}", launcher, words) for name, launcher in (("one", ONE), ("two", TWO))]
    rates = [measurement(result, "stream.tokens_per_s") for result, _ in found]
    same = len({(folder / "nll.npy").read_bytes() for _, folder in found}) == 1
    tokens = f"{found[0][0]['stream']['tokens']:,} tokens"
    bench.row(
        f"corpus of {len(novels)} files, {tokens}", f"{rates[0]:,.0f} tok/s",
        f"{rates[1]:,.0f} tok/s ({rates[1] / rates[0]:.2f}×)", same, "nll.npy byte for byte",
    )  # fmt: skip


def spread_model(bench: Bench, folder: Path, text: Path) -> None:
    """Scoring and generating, the model on one GPU, by heads and by layers over two."""
    small = bench.small
    size, limit, chunk = ("4+60", 1000, 128) if small else ("4+2044", 65536, 16384)
    ways = {
        "tensor": (TWO, ["--parallel", "tensor"]),
        "layers": (ONE, ["--device-map", "balanced"] if not small else ["--device-map", "auto"]),
    }
    scored = ["stream", text, "--model", folder, "-p", size, "--limit", limit]
    one, whole = bench.run("score-one", ONE, [*scored, "--chunk", chunk])
    _, other = bench.run("score-chunk", ONE, [*scored, "--chunk", chunk // 2])
    truth, again = np.load(whole / "nll.npy"), np.load(other / "nll.npy")
    spread = float(np.abs(truth - again).mean())
    generated = ["stream", "-g", 24 if small else 256, "--prompt", "It was a dark night", "--model", folder, "-p", size]
    generated += ["--set", "stop_at_eos=false", "--temperature", 0]
    alone, _ = bench.run("generate-one", ONE, generated)
    for name, (launcher, more) in ways.items():
        result, out = bench.run(f"score-{name}", launcher, [*scored, "--chunk", chunk, *more])
        apart = float(np.abs(np.load(out / "nll.npy") - truth).mean())
        rates = [measurement(each, "stream.tokens_per_s") for each in (one, result)]
        peaks = [measurement(each, "stream.peak_memory") / 2**30 for each in (one, result)]
        bench.row(
            f"scoring {size}, {name}", f"{rates[0]:,.0f} tok/s, {peaks[0]:.1f} GiB",
            f"{rates[1]:,.0f} tok/s ({rates[1] / rates[0]:.2f}×), {peaks[1]:.1f} GiB a process",
            apart <= max(2 * spread, 2e-5),
            f"losses apart by {apart:.1e} in the mean; by {spread:.1e} between two block sizes on one",
        )  # fmt: skip
        result, _ = bench.run(f"generate-{name}", launcher, [*generated, *more])
        steps = [measurement(each, "generate.ms_per_token") for each in (alone, result)]
        bench.row(
            f"generating {size}, {name}, a token", f"{steps[0]:.2f} ms",
            f"{steps[1]:.2f} ms ({steps[0] / steps[1]:.2f}×)", None, "whether it is the same model, the losses say",
        )  # fmt: skip


def long_sample(bench: Bench, folder: Path, text: Path) -> None:
    """One sample of 65,536 tokens by `measure`, its heads on one GPU and over two."""
    length = 512 if bench.small else 65536
    words = ["measure", folder, "--text", text, "--samples", 1, "--length", length, "--only", "attention", "--no-cost"]
    words += ["--bos", "off"]
    one, _ = bench.run("measure-one", ONE, words)
    two, _ = bench.run("measure-two", TWO, [*words, "--parallel", "tensor"])
    seconds, alphas = [], []
    for result in (one, two):
        score = result["measure"]["checkpoints"][0]["inputs"][0]
        seconds.append(score["seconds"])
        alphas.append(np.array(score["heads"]["alpha"][0], float))
    apart = float(np.abs(alphas[0] - alphas[1]).max())
    bench.row(
        f"measure, one sample of {length:,}", f"{seconds[0]:.2f} s",
        f"{seconds[1]:.2f} s ({seconds[0] / seconds[1]:.2f}×)", apart <= (1e-4 if bench.small else 2e-2),
        f"α of the first token by {alphas[0].size} heads apart by {apart:.1e} at most",
    )  # fmt: skip


def novels_in(folder: Path | None, work: Path, small: bool) -> list[Path]:
    """Eight texts: of a folder, or parts of the built-in novel."""
    if folder is not None:
        return sorted(path for path in folder.iterdir() if path.is_file())[:8]
    text, files = (DEMO / "text.txt").read_text(encoding="utf-8"), []
    size = 2000 if small else len(text) // 8
    for number in range(8):
        files.append(work / f"novel-{number}.txt")
        files[-1].write_text(text[number * size : (number + 1) * size], encoding="utf-8")
    return files


def stored(shape: str, work: Path, small: bool) -> Path:
    """Random weights of the shape as a checkpoint, with a tokenizer that fits it; random text is as good as any."""
    import torch

    from sinkctl.model.settings import ModelSettings
    from sinkctl.model.shapes import built

    folder = work / shape
    built(shape, ModelSettings(device="cpu" if small else "cuda")).model.save_pretrained(folder)
    gc.collect()
    torch.cuda.empty_cache()  # the runs need the room
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy((STORIES if small else DEMO) / name, folder)
    return folder


def machine(small: bool) -> str:
    import torch

    if small:
        return f"{os.cpu_count()} CPU cores, gloo, torch {torch.__version__}, small sizes: times say nothing"
    names = {torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
    return f"{torch.cuda.device_count()} × {', '.join(names)}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--model", default=str(STORIES), help="trained and streamed")
    parser.add_argument("--novels", type=Path)
    parser.add_argument("--shape", default=None, help="of the model that is spread (llama-2-7b; small: tiny)")
    parser.add_argument("--only", nargs="*", choices=["training", "corpus", "spread", "measure"])
    parser.add_argument("--work", type=Path, help="where checkpoints and runs go (default: a temporary folder)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.work) as scratch:
        work = Path(scratch)
        bench, novels = Bench(work, asked.small), novels_in(asked.novels, work, asked.small)
        shape = asked.shape or ("tiny" if asked.small else "llama-2-7b")
        long = work / "long.txt"
        long.write_text("\n".join(path.read_text(encoding="utf-8") for path in novels), encoding="utf-8")
        only = asked.only or ["training", "corpus", "spread", "measure"]
        folder = stored(shape, work, asked.small) if {"spread", "measure"} & set(only) else work
        parts = {
            "training": lambda b: training(b, asked.model),
            "corpus": lambda b: corpus(b, asked.model, novels),
            "spread": lambda b: spread_model(b, folder, long),
            "measure": lambda b: long_sample(b, folder, long),
        }
        print(f"{machine(asked.small)}; trained and streamed: {Path(asked.model).name}; spread: {shape}\n")
        print("| | one | two | |\n|---|---|---|---|", flush=True)
        for name in only:
            bench.part(name, parts[name])
    sys.exit(bench.failed)


if __name__ == "__main__":
    main()
