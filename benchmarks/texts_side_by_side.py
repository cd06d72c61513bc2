"""What short texts gain by sharing forward passes: tokens a second, one by one and side by side, in turns.

    python benchmarks/texts_side_by_side.py [--model MODEL] [--tokens 200] [--texts 40] [--rounds 5] [--device auto]

Texts are stretches of the built-in novel, of that many tokens, and of half to one and a half times as many. Medians,
and the largest difference of a loss.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import numpy as np

import sinkctl
from sinkctl.model.load import DEMO


def written(path: Path, model, tokens: int, texts: int, spread: float) -> Path:
    """A .jsonl file of texts of about so many tokens, `spread` of it more or fewer."""
    novel = (DEMO / "text.txt").read_text(encoding="utf-8")
    offsets = model.tokenizer(novel, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    draw, lines, at = np.random.default_rng(0), [], 0
    for _ in range(texts):
        count = round(tokens * (1 + spread * draw.uniform(-1, 1)))
        begin, end = offsets[at % (len(offsets) - count)][0], offsets[at % (len(offsets) - count) + count - 1][1]
        lines.append(json.dumps({"text": novel[begin:end]}))
        at += count
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def main() -> None:
    asked = flags()
    model = sinkctl.load(asked.model, device=asked.device)
    with tempfile.TemporaryDirectory() as scratch:
        for spread in (0.0, 0.5):
            path = written(Path(scratch) / "texts.jsonl", model, asked.tokens, asked.texts, spread)
            rates: dict[int | str, list[float]] = {1: [], "auto": []}
            losses = {}
            for number in range(asked.rounds):
                for rows in (1, "auto") if number % 2 == 0 else ("auto", 1):
                    found = sinkctl.stream([path], model=model, each="record", rows=rows, progress=lambda _: None)
                    rates[rows].append(found.result.stream.tokens / found.result.seconds)
                    losses[rows] = next(iter(found.nll.values()))
            alone, beside = (statistics.median(rates[rows]) for rows in (1, "auto"))
            print(
                f"{asked.tokens} tokens ± {spread:.0%}: {alone:,.0f} tok/s one by one, {beside:,.0f} side by side "
                f"({beside / alone:.2f}×); losses differ by up to {abs(losses[1] - losses['auto']).max():.1e} nats"
            )


if __name__ == "__main__":
    main()
