"""What keys and values in few bits cost a model, and what keeping its first tokens in full saves.

    python benchmarks/kv_precision.py MODEL [--text FILE …] [--limit 20000] [--policy 4+252] [--recent 0] [--bits 4 3 2]
                                      [--keys channel token] [--keep none first:1 first:4] [--device cuda]

MODEL is whatever `sinkctl stream --model` takes. The text (the built-in novel without --text) is scored under --policy
in full and at every precision, one after the other, in float32. A row a way of rounding, a column a set of tokens that
stay in full: the change of perplexity against the stream in full, and its standard error over stretches of 500 tokens.
"""

import argparse
import time
from itertools import product

import numpy as np

import sinkctl
from sinkctl.cli.loading import quiet_transformers
from sinkctl.recipe.shorthand import policy

STRETCH = 500


def main() -> None:
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
    chosen = parser.parse_args()
    quiet_transformers()
    loaded = sinkctl.load(chosen.model, device=chosen.device, dtype="float32")

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


def change(added: np.ndarray) -> str:
    """Of perplexity, in per cent, with its standard error."""
    stretches = added[~np.isnan(added)]
    stretches = stretches[: len(stretches) // STRETCH * STRETCH].reshape(-1, STRETCH).mean(1)
    error = stretches.std(ddof=1) / len(stretches) ** 0.5 if len(stretches) > 1 else float("nan")
    factor = np.exp(np.nanmean(added))
    return f"{100 * (factor - 1):+.2f} ± {100 * factor * error:.2f} %"


if __name__ == "__main__":
    main()
