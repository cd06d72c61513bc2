"""Tokens that in front of every text take the massive activations on themselves, and what they save where keys and
values are rounded.

    python benchmarks/prefixes.py MODEL [--text FILE] [--limit 4000] [--cache 256] [--bits 4 3 2] [--greedy 0]
                                  [--samples 16] [--length 256] [--device cuda]

MODEL is whatever `sinkctl stream --model` takes. A row a front: nothing, BOS, the prefix that `sinkctl measure` names
(after PrefixQuant, Chen et al. 2024, arXiv 2410.05265), as many of the text's most frequent tokens before BOS (the
control), and with --greedy N up to N tokens that a greedy search finds on the samples by the loss at the fewest bits
(as CushionCache, Son et al. 2024, arXiv 2406.12016, begins; its prefix tuning is not done). Of every front: places in
the samples past it that are massive in some layer (Sun et al. 2024: over 100, and 1,000 times the median) and the
largest activation, both by the stock model; perplexity of the text past it, streamed with the front kept in full (and
nothing in front: the first four tokens), and what rounding all other keys and values adds, with its standard error over
stretches of 500 tokens. What is stated of a front is used by `sinkctl stream FRONT.txt BOOK.txt --bos never -p N+W --kv
4bit --kv-keep first:N`.
"""

import argparse
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text")
    parser.add_argument("--limit", type=int, default=4000)
    parser.add_argument("--cache", type=int, default=256)
    parser.add_argument("--bits", nargs="+", default=["4", "3", "2"])
    parser.add_argument("--greedy", type=int, default=0)
    parser.add_argument("--search", type=int, default=600, help="tokens that a search scores")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import numpy as np
import torch
from kv_precision import change

import sinkctl
from sinkctl.cli.loading import quiet_transformers
from sinkctl.model.load import DEMO
from sinkctl.report.measured import predicted_table, prefix
from sinkctl.tasks.measure.inputs import token_reader

WHOLE_FIRST = 4  # kept in full where nothing is in front
CANDIDATES = 6  # tokens told by massive activations that a search tries, and as many frequent ones


class Fronts:
    """A model, and a text to put tokens in front of."""

    def __init__(self, chosen: argparse.Namespace, scratch: Path):
        self.chosen, self.scratch = chosen, scratch
        self.loaded = sinkctl.load(chosen.model, device=chosen.device, dtype="float32")
        self.text = chosen.text or str(DEMO / "text.txt")
        words = Path(self.text).read_text(encoding="utf-8")
        self.ids = self.loaded.tokenizer(words, add_special_tokens=False, verbose=False).input_ids
        starts = np.linspace(0, len(self.ids) - chosen.length, chosen.samples).astype(int)
        self.samples = [self.ids[start : start + chosen.length] for start in starts]

    def file(self, front: list[int]) -> str:
        """A file that is read as these tokens and no others."""
        path, words = self.scratch / "front.txt", self.loaded.tokenizer.decode(front)
        if self.loaded.tokenizer(words, add_special_tokens=False).input_ids != front:
            raise SystemExit(f"{words!r} is read as other tokens, so it cannot be put in front as text")
        path.write_text(words, encoding="utf-8")
        return str(path)

    def losses(self, front: list[int], bits: str | None, tokens: int) -> np.ndarray:
        """Of all but the first token of the text, the front kept."""
        kept = len(front) or WHOLE_FIRST
        bits = int(bits) if bits is not None and bits.isdecimal() else bits
        precision = None if bits is None else {"bits": bits, "recent": 0, "keep": f"first:{kept}"}
        policy = {"kind": "sink_window", "sinks": kept, "window": self.chosen.cache - kept, "precision": precision}
        files, told = [*([self.file(front)] if front else []), self.text], dict(progress=lambda _: None, bos="never")
        outcome = sinkctl.stream(files, model=self.loaded, policies=[policy], limit=tokens + len(front), **told)
        (nll,) = outcome.nll.values()
        return nll[-(tokens - 1) :].astype(np.float64)

    @torch.no_grad()
    def massive(self, front: list[int]) -> tuple[float, float]:
        """(places a sample past the front that are massive in some layer, largest activation past it)."""
        places, largest = 0, 0.0
        for sample in self.samples:
            ids_BT = torch.tensor([front + sample], device=self.loaded.device)
            states = self.loaded.model(input_ids=ids_BT, output_hidden_states=True, use_cache=False).hidden_states
            size_LTC = torch.stack([x[0].abs().float() for x in states[1:-1]])  # the last one is past the final norm
            least_L = (1000 * size_LTC.flatten(1).median(1).values).clamp(min=100)
            past_LT = size_LTC.amax(-1)[:, max(1, len(front)) :]
            places += int((past_LT > least_L[:, None]).any(0).sum())
            largest = max(largest, float(past_LT.max()))
        return places / len(self.samples), largest

    def greedy(self, candidates: list[int], most: int) -> list[int]:
        """One token after the other, in front of all: the one that lowers the loss at the fewest bits most, surely."""
        bits, tokens, front = self.chosen.bits[-1], self.chosen.search, []
        best = self.losses(front, bits, tokens)
        while len(front) < most:
            tried = {token: self.losses([token, *front], bits, tokens) for token in candidates}
            token = min(tried, key=lambda token: tried[token].mean())
            gain = best - tried[token]
            if gain.mean() < 2 * gain.std(ddof=1) / len(gain) ** 0.5:
                break
            front, best = [token, *front], tried[token]
        return front


def main() -> None:
    chosen = flags()
    quiet_transformers()
    with TemporaryDirectory() as scratch:
        _table(Fronts(chosen, Path(scratch)), chosen)


def _table(fronts: Fronts, chosen: argparse.Namespace) -> None:
    loaded, read = fronts.loaded, token_reader(fronts.loaded.tokenizer)
    shown = dict(samples=chosen.samples, length=chosen.length, bos="on", files=[fronts.text], kinds=["natural"])
    measured = sinkctl.measure(loaded, cost={"run": False}, progress=lambda _: None, **shown)
    (score,) = measured.result.measure.checkpoints[0].inputs
    print(f"{loaded.name}, {chosen.limit:,} tokens, a cache of {chosen.cache}, nothing recent in full")
    if score.predicted is None:
        raise SystemExit("nothing is massive, so there is nothing to put in front")
    print("\n".join(predicted_table(score).legend))
    by_text = {read(token): token for token in sorted(set(fronts.ids))} | {score.first_tokens[0]: loaded.bos_id}
    told = [by_text[token.token] for token in score.predicted.tokens if token.token in by_text][:CANDIDATES]
    named = [by_text[token] for token in prefix(score)]
    often = [token for token, _ in Counter(fronts.ids).most_common() if token not in told][:CANDIDATES]
    rows = {"nothing": [], "BOS": [loaded.bos_id]}
    if len(named) > 1:
        rows |= {"as measured": named, "frequent tokens": [*often[: len(named) - 1], loaded.bos_id]}
    if chosen.greedy:
        rows["greedy search"] = fronts.greedy([loaded.bos_id, *told, *often], chosen.greedy)
    print(f"| front | massive places past it | largest | perplexity | {' | '.join(f'{b} bits' for b in chosen.bits)} |")
    print("|---" * (4 + len(chosen.bits)) + "|")
    for name, front in rows.items():
        full = fronts.losses(front, None, chosen.limit)
        cells = [change(fronts.losses(front, bits, chosen.limit) - full) for bits in chosen.bits]
        (places, largest), spelt = fronts.massive(front), " ".join(f"“{read(token)}”" for token in front)
        numbers = [f"{places:.2f}", f"{largest:,.0f}", f"{np.exp(full.mean()):.3f}"]
        print(f"| {name} {spelt} | {' | '.join([*numbers, *cells])} |".replace("\n", "\\n"), flush=True)


if __name__ == "__main__":
    main()
