"""Retrieval under streaming with a model that can: the built-in model, tuned to copy, asked inside and outside a cache.

    python benchmarks/retrieval.py --output runs/retriever

Fine-tunes on streams of lines (`417: 8362`) in which some lines are asked for again, at most `--length` tokens long,
with plain AdamW; then runs `sinkctl stream --questions` on the result, far past its context. `--style lines` tunes on
the built-in set (`--questions lines`) instead, whose lines are five times as long. Prints a table last.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

NAMES = ("short", "lines")  # of the styles of lines


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint; one that is there is asked")
    parser.add_argument("--style", choices=NAMES, default="short")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=384)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--everything", type=float, default=0.05, help="weight of the loss on all tokens")
    parser.add_argument("--lines", type=int, default=800, help="lines to stream when asking")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sinkctl.model.load import load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.load import validate
from sinkctl.recipe.schema import LineSettings
from sinkctl.recipe.shorthand import policy
from sinkctl.report.questions import answer_table, questions_line
from sinkctl.tasks.questions import run
from sinkctl.tasks.questions.lines import WORDS, LineItems

POLICIES = ("4+252", "0+256", "dense")


@dataclass(frozen=True)
class Style:
    """How a line reads, `start + value`, and what asks for it again."""

    line: Callable[[random.Random], tuple[str, str]]
    question: str  # in front of the line's start


def short_line(draw: random.Random) -> tuple[str, str]:
    return f"{draw.randrange(100, 1000)}:", f" {draw.randrange(1000, 10000)}\n"


def built_in_line(draw: random.Random) -> tuple[str, str]:
    label = "-".join(draw.sample(WORDS, 2))
    return f"line {label}: REGISTER_CONTENT is", f" <{draw.randrange(10000, 100000)}>\n"


STYLES = dict(zip(NAMES, (Style(short_line, ""), Style(built_in_line, "Query: ")), strict=True))


class Streams(IterableDataset):
    """Endless training streams: lines, and after some of them the question about an earlier one with its answer."""

    def __init__(self, tokenizer, style: Style, length: int, seed: int):
        self._style, self._length, self._seed, self._bos = style, length, seed, tokenizer.bos_token_id
        draw = random.Random(seed)
        self._ids = lru_cache(1 << 17)(lambda text: tokenizer(text, add_special_tokens=False).input_ids)
        for _ in range(100):  # the task reads a line whole, and lets the model write the second part
            start, value = style.line(draw)
            assert self._ids(start + value) == self._ids(start) + self._ids(value)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids and whether each is part of an answer, [T]."""
        worker = get_worker_info()
        draw = random.Random(f"{self._seed}:{worker.id if worker else 0}")
        while True:
            ids, asked = self._stream(draw)
            yield torch.tensor(ids), torch.tensor(asked)

    def _stream(self, draw: random.Random) -> tuple[list[int], list[bool]]:
        lines: dict[str, str] = {}
        ids, asked = [self._bos], [False]
        often = draw.choice((0.2, 0.5, 0.8))

        def add(text: str, answer: bool) -> None:
            ids.extend(self._ids(text))
            asked.extend([answer] * (len(ids) - len(asked)))

        while len(ids) < self._length:
            if lines and draw.random() < often:
                start = draw.choice(list(lines))
                add(self._style.question + start, False)
                add(lines[start], True)
            else:
                start, value = self._style.line(draw)
                if start not in lines:
                    lines[start] = value
                    add(start + value, False)
        return ids[: self._length], asked[: self._length]


def tune(model, streams: Streams, options: argparse.Namespace) -> None:
    """Loss on the answers, and a little on everything; linear warm-up, then down to a tenth along a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(20 * (step + 1) / options.steps, 0.55 + 0.45 * math.cos(math.pi * step / options.steps), 1.0),
    )
    began, cuda = time.perf_counter(), model.device.type == "cuda"
    batches = iter(DataLoader(streams, options.batch, num_workers=12 if cuda else 0))
    model.train()
    for step in range(options.steps):
        ids_BT, asked_BT = (x.to(model.device) for x in next(batches))
        with torch.autocast(model.device.type, torch.bfloat16, enabled=cuda):
            logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
        nll_BT = cross_entropy(logits_BTV.float().flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none")
        asked = asked_BT[:, 1:].flatten()
        answers = nll_BT[asked].mean()
        (answers + options.everything * nll_BT.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % max(1, options.steps // 20) == 0 or step == options.steps - 1:
            right = (logits_BTV.detach().argmax(-1).flatten() == ids_BT[:, 1:].flatten())[asked].float().mean()
            took = time.perf_counter() - began
            print(f"step {step:5d}  answers {answers.item():.4f} nats, {right:.1%} of tokens right  {took:.0f} s")
    model.eval()


def asked_file(path: Path, count: int, every: int, backs: tuple[int, ...], seed: int) -> str:
    """Short lines as a questions file: no label and no value twice."""
    draw = random.Random(seed)
    labels, values = draw.sample(range(100, 1000), count), draw.sample(range(1000, 10000), count)
    records, asked = [], 0
    for number in range(count):
        records.append({"text": f"{labels[number]}: {values[number]}\n"})
        back = backs[asked % len(backs)]
        if number >= max(backs) and number % every == 0:
            about = number - back
            records.append({"question": f"{labels[about]}:", "answer": str(values[about]), "back": back})
            asked += 1
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def ask(folder: Path, options: argparse.Namespace) -> None:
    """Run the questions task on the checkpoint, and print its table."""
    loaded = load(ModelSettings(name=str(folder), device=options.device))
    if options.style == "short":
        backs = (2, 10, 20, 40, 80)
        asked = {"questions": asked_file(folder / "asked.jsonl", options.lines, 4, backs, options.seed + 1)}
    else:
        lines = LineSettings(count=options.lines, every=4, back=(1, 3, 5, 12, 24), seed=options.seed + 1)
        asked = {"lines": lines.model_dump()}
        assert LineItems(lines).asks
    recipe = validate({"task": "questions", "policies": [policy(p) for p in POLICIES], **asked})
    result = run(recipe, loaded).result
    table = answer_table(result.questions)
    print(f"{questions_line(result.questions)}; {result.seconds:.0f} s on {loaded.device}, {loaded.dtype}")
    widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    for row in [table.columns, *table.rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    print("; ".join(table.legend))
    print("\n".join(result.verdict))


def main() -> None:
    options = flags()
    if not (options.output / "config.json").exists():
        torch.manual_seed(options.seed)
        loaded = load(ModelSettings(device=options.device, dtype="float32"))
        streams = Streams(loaded.tokenizer, STYLES[options.style], options.length, options.seed)
        tune(loaded.model, streams, options)
        loaded.model.save_pretrained(options.output)
        loaded.tokenizer.save_pretrained(options.output)
    ask(options.output, options)


if __name__ == "__main__":
    main()
