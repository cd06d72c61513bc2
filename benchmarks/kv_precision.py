"""What keys and values in few bits cost a model, and what keeping its first tokens in full saves.

    python benchmarks/kv_precision.py MODEL [--text FILE …] [--limit 20000] [--policy 4+252] [--recent 0] [--bits 4 3 2]
                                      [--keys channel token] [--keep none first:1 first:4 predicted] [--device cuda]
                                      [--everything 6]

MODEL is whatever `sinkctl stream --model` takes. The text (the built-in novel without --text) is scored under --policy
in full and at every precision, one after the other, in float32. A row a way of rounding, a column a set of tokens that
stay in full: the change of perplexity against the stream in full, and its standard error over stretches of 500 tokens.

With --everything, instead: so many samples of 512 tokens, the second half of each scored, with every key (by channel)
and value rounded, the query's own and those of its group too, as fake quantization does; a column a group of values.
"""

import argparse
import time
from functools import partial
from itertools import product
from pathlib import Path


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", nargs="+", default=[])
    parser.add_argument("--limit", type=int, default=20000)
    parser.add_argument("--policy", default="4+252")
    parser.add_argument("--recent", type=int, default=0)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--bits", nargs="+", default=["4", "3", "2"])
    parser.add_argument("--keys", nargs="+", default=["channel", "token"])
    parser.add_argument("--keep", nargs="+", default=["none", "first:1", "first:4"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--everything", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

import sinkctl
from sinkctl.cli.loading import quiet_transformers
from sinkctl.kernels.rounded_decode.quantize import dequantize, quantize
from sinkctl.model.load import DEMO, LoadedModel
from sinkctl.model.undocumented import cached
from sinkctl.recipe.shorthand import policy

STRETCH = 500


def main() -> None:
    chosen = flags()
    quiet_transformers()
    loaded = sinkctl.load(chosen.model, device=chosen.device, dtype="float32")
    if chosen.everything:
        return everything(loaded, chosen)

    def score(precision: dict | None):
        began = time.perf_counter()
        how = {**policy(chosen.policy), "precision": precision}
        outcome = sinkctl.stream(chosen.text, model=loaded, policies=[how], limit=chosen.limit, progress=lambda _: None)
        (nll,), (detail,) = outcome.nll.values(), outcome.result.stream.policies
        return nll.astype(np.float64), detail.cache_bytes, time.perf_counter() - began

    full, size, seconds = score(None)
    print(
        f"{loaded.name}, {chosen.policy}, {len(full):,} tokens: perplexity {np.exp(np.nanmean(full)):.3f} in full, "
        f"cache {size:,} bytes, {seconds:.0f} s; the last {chosen.recent} in full, groups of {chosen.group}"
    )
    print("| bits, keys | cache, of full | " + " | ".join(f"{keep} kept" for keep in chosen.keep) + " | s each |")
    print("|---" * (len(chosen.keep) + 3) + "|")
    for bits, keys in product(chosen.bits, chosen.keys):
        cells, took, share = [], [], 0.0
        for keep in chosen.keep:
            own = {"bits": int(bits) if bits.isdecimal() else bits, "keys": keys, "keep": keep}
            nll, held, seconds = score({**own, "recent": chosen.recent, "group": chosen.group})
            share = share or held / size
            took.append(seconds)
            cells.append(change(nll - full))
        print(f"| {bits}, by {keys} | {share:.1%} | {' | '.join(cells)} | {np.mean(took):.0f} |", flush=True)


class AllRounded(DynamicLayer):
    """Gives back every key and value rounded, but those of the first `kept` tokens."""

    def __init__(self, bits: int, keys: int, values: int, kept: int):
        super().__init__()
        self.bits, self.keys_together, self.channels, self.kept = bits, keys, values, kept

    def update(self, key_states: Tensor, value_states: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        groups = key_states.unflatten(2, (-1, self.keys_together))
        k = dequantize(quantize(groups, self.bits, None), self.bits).flatten(2, 3)
        v = dequantize(quantize(value_states, self.bits, self.channels), self.bits)
        for rounded, whole in ((k, key_states), (v, value_states)):
            rounded[:, :, : self.kept] = whole[:, :, : self.kept]
        return k, v


@torch.no_grad()
def everything(loaded: LoadedModel, chosen: argparse.Namespace) -> None:
    """The table of --everything."""
    text = "".join(Path(name).read_text(encoding="utf-8") for name in chosen.text or [DEMO / "text.txt"])
    ids_T = torch.tensor(loaded.tokenizer(text, verbose=False).input_ids)
    starts = np.linspace(0, len(ids_T) - 513, chosen.everything).astype(int)

    def nll(make) -> float:
        found = []
        for start in starts:
            part_T, cache = ids_T[start : start + 513].to(loaded.device), DynamicCache(config=loaded.model.config)
            cache.layers = [make() for _ in cache.layers]
            logits = loaded.model(input_ids=part_T[None, :-1], **cached(loaded.model, cache)).logits[0, 256:]
            found.append(float(cross_entropy(logits, part_T[257:])))
        return float(np.mean(found))

    full = nll(DynamicLayer)
    print(f"{loaded.name}, {len(starts)} samples of 512, second halves: perplexity {np.exp(full):.3f} in full")
    print("| bits | keep | values by 64 | values by 32 |\n|---|---|---|---|")
    for bits, keep in product(map(int, chosen.bits), chosen.keep):
        kept = int(keep.partition(":")[2] or 0)
        added = [nll(partial(AllRounded, bits, chosen.group, own, kept)) - full for own in (64, 32)]
        print(f"| {bits} | {keep} | " + " | ".join(f"{100 * np.expm1(x):+.1f} %" for x in added) + " |", flush=True)


def change(added: np.ndarray) -> str:
    """Of perplexity, in per cent, with its standard error."""
    stretches = added[~np.isnan(added)]
    stretches = stretches[: len(stretches) // STRETCH * STRETCH].reshape(-1, STRETCH).mean(1)
    error = stretches.std(ddof=1) / len(stretches) ** 0.5 if len(stretches) > 1 else float("nan")
    factor = np.exp(np.nanmean(added))
    return f"{100 * (factor - 1):+.2f} ± {100 * factor * error:.2f} %"


if __name__ == "__main__":
    main()
