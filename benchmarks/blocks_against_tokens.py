"""Blocks, token by token, and the stock `generate` loop on the built-in model, interleaved in one run.

    python benchmarks/blocks_against_tokens.py

All three keep 4 sinks and 252 tokens, or as near as they can: `generate` has no such cache, so it decodes after a
prompt of 256 tokens with its own. Medians of five rounds; the last lines are the table.
"""

import os
import statistics
import time

import torch

from sinkctl.cache.policies import SinkWindow
from sinkctl.model.load import DEMO, load
from sinkctl.tasks.stream.scorers import BlockScorer

POLICY = SinkWindow(sinks=4, window=252)


def main() -> None:
    loaded = load("demo")
    model = loaded.model
    ids = torch.tensor(loaded.tokenizer((DEMO / "text.txt").read_text(encoding="utf-8")).input_ids)

    def scorer(filled: int = 1024) -> BlockScorer:
        made = BlockScorer(loaded, POLICY)
        made.step(ids[:filled], ids[1 : filled + 1])
        return made

    blocks, tokens = scorer(), scorer()

    def by_blocks() -> float:
        size = 1024
        began = time.perf_counter()
        for start in range(1024, 1024 + 8 * size, size):
            blocks.step(ids[start : start + size], ids[start + 1 : start + size + 1])
        return 8 * size / (time.perf_counter() - began)

    def by_tokens() -> float:
        began = time.perf_counter()
        for start in range(1024, 1024 + 200):
            tokens.step(ids[start : start + 1], ids[start + 1 : start + 2])
        return 200 / (time.perf_counter() - began)

    def by_generate() -> float:
        prompt = ids[None, :256]
        began = time.perf_counter()
        model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=200, min_new_tokens=200, do_sample=False
        )
        return 200 / (time.perf_counter() - began)

    ways = {"blocks of 1024": by_blocks, "token by token": by_tokens, "stock generate": by_generate}
    speeds = {name: [] for name in ways}
    for round_ in range(6):
        for name, run in ways.items():
            speed = run()
            if round_:
                speeds[name].append(speed)
    medians = {name: statistics.median(samples) for name, samples in speeds.items()}
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()}"
    print(f"CPU, {threads}, torch {torch.__version__}, built-in model, float32, 4+252")
    for name, speed in medians.items():
        print(f"{name:16s} {speed:8.0f} tokens/s  {speed / medians['token by token']:6.1f}×")


if __name__ == "__main__":
    main()
