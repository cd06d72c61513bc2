"""One long stream of the 7B shape on a GPU: its rate and memory as it goes, and the published recipe's rate in between.

    python benchmarks/long_stream.py [--tokens 4000000] [--window 2044]

Llama-2-7B's shape, random weights and tokens, bf16, 4 sinks. A row after every twentieth of the tokens: all so far,
tokens a second without what lies between blocks, memory of the device (now, and the most so far) and of the process;
then a few tokens by the published recipe, one at a time, its cache full. The last row has the whole, and how many times
the median of those rates it is.
"""

import argparse
import statistics
import time


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4_000_000)
    parser.add_argument("--window", type=int, default=2044)
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import psutil
import shape_7b
import torch

from sinkctl.cache.policies import SinkWindow
from sinkctl.model.memory import auto_chunk
from sinkctl.tasks.bench.peers.published import Published
from sinkctl.tasks.stream.scorers import BlockScorer

SINKS, ROWS, FEW = 4, 20, 8  # tokens at a time by the published recipe


def main() -> None:
    options = flags()
    loaded, policy = shape_7b.build(), SinkWindow(sinks=SINKS, window=options.window)
    vocabulary, draw = loaded.model.config.vocab_size, torch.Generator().manual_seed(0)

    def drawn(tokens: int) -> torch.Tensor:
        return torch.randint(vocabulary, (tokens,), generator=draw)

    chunk, scorer, published = auto_chunk(loaded)[0], BlockScorer(loaded, policy), Published(loaded, policy)
    published.fill(drawn(policy.reach + 1)[None].to(loaded.device))
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {options.tokens:,} tokens at {policy.label}")
    say(f"blocks of {chunk:,}; {'; '.join(scorer.choices.values())}")
    spent, loss, told, theirs = 0.0, 0.0, 0, []
    while scorer.seen < options.tokens:
        ids_T = drawn(min(chunk, options.tokens - scorer.seen) + 1)
        begun = time.perf_counter()
        loss += float(scorer.step(ids_T[:-1], ids_T[1:]).sum(dtype="float64"))
        spent += time.perf_counter() - begun
        if scorer.seen * ROWS // options.tokens > told:
            told = scorer.seen * ROWS // options.tokens
            memory = held()
            theirs.append(rate_of(published, drawn(FEW + 1)))
            rate = f"{scorer.seen:11,} tokens {spent:7.1f} s {scorer.seen / spent:8,.0f} tokens/s"
            say(f"{told / ROWS:4.0%} {rate}; {memory}; published {theirs[-1]:.1f} tokens/s")
    rate, mean = scorer.seen / spent, statistics.median(theirs)
    say(
        f"{scorer.seen:,} tokens in {spent:.1f} s: {rate:,.0f} tokens/s, {rate / mean:,.0f} times {mean:.1f}, published"
    )
    say(f"mean loss {loss / scorer.seen:.4f} nats")


def rate_of(published: Published, ids_T: torch.Tensor) -> float:
    """Tokens a second."""
    begun = time.perf_counter()
    published.score(ids_T[:-1], ids_T[1:]).cpu()
    return (len(ids_T) - 1) / (time.perf_counter() - begun)


def held() -> str:
    now, most = (f() / 2**30 for f in (torch.cuda.memory_allocated, torch.cuda.max_memory_allocated))
    return f"device {now:.3f} GiB, most {most:.3f}; process {psutil.Process().memory_info().rss / 2**20:,.0f} MiB"


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
