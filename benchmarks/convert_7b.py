"""Converting at the Llama-2-7B shape in bf16, random weights made on the device; and what a designed sink costs to run.

    python benchmarks/convert_7b.py [--only sink_logit kv_bias …] [--no-convert]

First whole conversions, from calibration to the comparison with what was written, seconds a part. Then a forward pass
of one sample and a stream: the stock class beside the same shape with a sink of its own code. Interleaved rounds,
medians. Prints tables last.
"""

import argparse
import tempfile
import time
from pathlib import Path


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--no-convert", action="store_true")
    parser.add_argument("--tokens", type=int, nargs="*", default=[2048, 8192])
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch
from shape_7b import SHAPE, build, seconds
from transformers import AutoTokenizer

import sinkctl
from sinkctl.cache.policies import SinkWindow
from sinkctl.model.load import DEMO, LoadedModel
from sinkctl.model.memory import auto_chunk
from sinkctl.sinks.code import FAMILIES
from sinkctl.tasks.stream.scorers import BlockScorer

CONVERTED = (("sink_logit", {}), ("kv_bias", {}), ("gate", {"start": "match"}), ("softpick", {}))
DESIGNED = {
    "sink_logit": dict(kind="sink_logit", parameters=["logit"]),
    "kv_bias": dict(kind="kv_bias", parameters=["key", "value"]),
    "gate, headwise": dict(kind="gate", place="output", form="headwise", parameters=["gate.weight"]),
    "softpick": dict(kind="softpick", parameters=["offset"]),
}
ROUNDS = 5


class Parts:
    """Seconds between what a conversion says it does."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        self._last: tuple[str, float] | None = None

    def __call__(self, now) -> None:
        what = "comparing" if ":" in now.what or now.what.startswith("streaming") else now.what
        at = time.perf_counter()
        if self._last is not None:
            self.found[self._last[0]] = self.found.get(self._last[0], 0.0) + at - self._last[1]
        self._last = what, at


def conversions(only: list[str]) -> list[str]:
    loaded, lines = build(), []
    loaded.tokenizer = AutoTokenizer.from_pretrained(DEMO)
    with tempfile.TemporaryDirectory() as folder:
        for kind, settings in CONVERTED:
            if only and kind not in only:
                continue
            parts, began = Parts(), time.perf_counter()
            torch.cuda.reset_peak_memory_stats()
            output = Path(folder) / kind
            done = sinkctl.convert(loaded, to=kind, output=output, progress=parts, **settings)
            took, peak = time.perf_counter() - began, torch.cuda.max_memory_allocated() / 2**30
            said = ", ".join(f"{name} {s:.1f}" for name, s in parts.found.items())
            size = sum(path.stat().st_size for path in output.iterdir()) / 1e9
            lines.append(f"{kind:12s} {took:6.1f} s  peak {peak:5.1f} GiB  {size:.1f} GB written  ({said})")
            print(lines[-1], done.result.convert.stored, flush=True)
            for path in output.iterdir():
                path.unlink()
            torch.cuda.empty_cache()
    return lines


def designed(sink: dict, attention: str) -> torch.nn.Module:
    classes = FAMILIES["llama"].classes()
    config_class, model_class = classes["AutoConfig"], classes["AutoModelForCausalLM"]
    with torch.device("cuda"):
        model = model_class._from_config(
            config_class(**SHAPE, sink=sink), dtype=torch.bfloat16, attn_implementation=attention
        ).eval()
    for module in model.modules():
        if hasattr(module, "sink"):
            module.sink.float()
    return model


def forward_ms(model: torch.nn.Module, tokens: int) -> float:
    ids = torch.randint(0, SHAPE["vocab_size"], (1, tokens), device="cuda")

    @torch.no_grad()
    def run() -> None:
        model.model(input_ids=ids, use_cache=False)

    return 1000 * seconds(run, ROUNDS)


def streamed(model: torch.nn.Module, window: int = 1020) -> tuple[float, str]:
    loaded = LoadedModel(model, None, "7b", "random")
    chunk, _ = auto_chunk(loaded)
    scorer = BlockScorer(loaded, SinkWindow(sinks=0, window=window))
    ids = torch.randint(0, SHAPE["vocab_size"], (chunk + 1,))
    scorer.step(ids[:-1], ids[1:])
    took = seconds(lambda: scorer.step(ids[:-1], ids[1:]), ROUNDS)
    return chunk / took, next(iter(scorer._cache.implementations))


def main() -> None:
    options = flags()
    lines = [] if options.no_convert else conversions(options.only)
    torch.cuda.empty_cache()
    rows, base = [], {}
    for name in ("stock Llama, sdpa", *(f"{name}; {way}" for name in DESIGNED for way in ("sdpa", "eager"))):
        kind, _, way = name.partition("; ")
        model = build().model if not way else designed(DESIGNED[kind], way)
        times = []
        for tokens in options.tokens:
            try:
                times.append(forward_ms(model, tokens))
            except torch.OutOfMemoryError:
                times.append(float("nan"))
                torch.cuda.empty_cache()
        speed = streamed(model) if way != "eager" else (float("nan"), "")
        base = base or {"times": times, "speed": speed[0]}
        rows.append((name, times, speed))
        del model
        torch.cuda.empty_cache()
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print("\n".join(lines))
    print(
        f"\nforward ms at {options.tokens} tokens (× stock); streamed tokens/s at 0+1020, not compiled (share of stock)"
    )
    for name, times, (speed, kernel) in rows:
        shown = "  ".join(f"{t:9.1f} ({t / b:5.2f}×)" for t, b in zip(times, base["times"], strict=True))
        print(f"{name:24s} {shown}  {speed:9.0f} ({speed / base['speed']:.2f})  {kernel}")


if __name__ == "__main__":
    main()
