"""transformers' own quantized caches beside the rounded ring: loss, memory, and how they meet the first tokens.

    pip install optimum-quanto hqq
    python benchmarks/stock_quantized_cache.py MODEL [--text FILE] [--limit 2048] [--device cpu]

MODEL is whatever `sinkctl stream --model` takes, with full attention in every layer. One text goes through the model in
blocks of 64 tokens, everything kept, in float32: with the stock cache in full, with `QuantizedCache` on each backend,
and with sinkctl's cache at the same bits, groups and recent tokens, then as it comes. A row a cache: what it adds to
the perplexity of the tokens behind the first 256 (standard error over stretches of 500 tokens), the mean KL divergence
from the full cache in nats, and bytes that a token costs once it is not recent, of those in full, in bfloat16.
"""

import argparse
import time
from contextlib import nullcontext

from sinkctl.model.named import DEMO


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", default=str(DEMO / "text.txt"))
    parser.add_argument("--limit", type=int, default=2048)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch
from kv_precision import change
from torch import Tensor
from transformers import DynamicCache, QuantizedCache
from transformers.cache_utils import Cache

import sinkctl
from sinkctl.cache.policies import SinkWindow
from sinkctl.cache.select import ring
from sinkctl.cli.loading import quiet_transformers
from sinkctl.errors import SinkctlError
from sinkctl.model.load import LoadedModel
from sinkctl.model.undocumented import cached

BLOCK, FIRST = 64, 256
STOCK = {
    "quanto, as it comes": dict(backend="quanto"),
    "quanto, keys by channel": dict(backend="quanto", axis_key=-1),
    "hqq, as it comes": dict(backend="hqq"),
    "hqq, by token": dict(backend="hqq", axis_key=1, axis_value=1),
}
OURS = {
    "sinkctl, by token, groups of 64": dict(keys="token", group=64),
    "sinkctl, keys by channel, groups of 32": dict(keys="channel"),
    "the same, first token in full": dict(keys="channel", keep="first:1"),
}


def main() -> None:
    chosen = flags()
    quiet_transformers()
    loaded = sinkctl.load(chosen.model, device=chosen.device, dtype="float32")
    with open(chosen.text, encoding="utf-8") as file:
        text = file.read(8 * chosen.limit)
    ids_T = torch.tensor(loaded.tokenizer(text, verbose=False).input_ids[: chosen.limit + 1])
    full_TV, nll = scored(loaded, ids_T, DynamicCache(config=loaded.model.config))
    print(
        f"{loaded.name}, {len(nll):,} tokens behind the first {FIRST}: perplexity {nll.mean().exp():.3f} in full; "
        f"torch {torch.__version__}, {loaded.device}"
    )
    print("| bits | cache | perplexity | KL, nats | bytes a token | s |\n|---|---|---|---|---|---|", flush=True)
    for bits in (4, 2):
        for name, how in STOCK.items():
            row(loaded, ids_T, full_TV, nll, bits, name, stock=how | {"nbits": bits})
        for name, how in OURS.items():
            row(loaded, ids_T, full_TV, nll, bits, name, ours=how | {"bits": bits})
    row(loaded, ids_T, full_TV, nll, "fp8", "transformers' fp8", stock=dict(backend="fp8"))
    row(loaded, ids_T, full_TV, nll, "fp8", "sinkctl", ours=dict(bits="fp8", keys="token", group=64))


def row(
    loaded: LoadedModel, ids_T: Tensor, full_TV: Tensor, full_nll: Tensor, bits: int | str, name: str, *,
    stock: dict | None = None, ours: dict | None = None,
) -> None:  # fmt: skip
    """One line of the table, or why there is none."""
    began = time.perf_counter()
    try:
        if ours is None:
            made = nullcontext(QuantizedCache(config=loaded.model.config, **stock))
        else:
            made = sinkctl.streaming(loaded, sinks=4, window=len(ids_T), precision=ours)
        with made as cache:
            logits_TV, nll = scored(loaded, ids_T, cache)
        share = bytes_of_stock(loaded, stock) if ours is None else bytes_of_ours(loaded, ours)
    except (ValueError, RuntimeError, ImportError, TypeError, AssertionError) as error:
        said = " ".join(str(error).split())[:90]
        print(f"| {bits} | {name} | {type(error).__name__}: {said} | | | |", flush=True)
        return
    log_p, log_q = (x.log_softmax(-1) for x in (full_TV, logits_TV))
    divergence = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    seconds = time.perf_counter() - began
    added = change((nll - full_nll).numpy())
    print(f"| {bits} | {name} | {added} | {divergence:.4f} | {share:.1%} | {seconds:.0f} |", flush=True)


@torch.no_grad()
def scored(loaded: LoadedModel, ids_T: Tensor, cache: Cache) -> tuple[Tensor, Tensor]:
    """Logits [T, V] and losses [T] in nats of the tokens behind the first, a block at a time."""
    logits, device = [], loaded.device
    for start in range(0, len(ids_T) - 1, BLOCK):
        part_BT = ids_T[None, start : min(start + BLOCK, len(ids_T) - 1)].to(device)
        out = loaded.model(input_ids=part_BT, **cached(loaded.model, cache))
        logits.append(out.logits[0].cpu())
    logits_TV = torch.cat(logits)[FIRST:]
    return logits_TV, torch.nn.functional.cross_entropy(logits_TV, ids_T[1 + FIRST :], reduction="none").double()


def bytes_of_stock(loaded: LoadedModel, how: dict) -> float:
    """What one more token costs a layer's cache, of two rows of numbers in bfloat16."""

    def held(tokens: int) -> int:
        layer = QuantizedCache(config=loaded.model.config, **how).layers[0]
        facts = loaded.layers(8)[0]
        k, v = (torch.randn(1, facts.kv_heads, tokens, w).bfloat16() for w in (facts.width, facts.value_width))
        layer.update(k, v)
        stored = [getattr(layer, name) for name in ("_quantized_keys", "_quantized_values") if hasattr(layer, name)]
        return sum(map(nbytes, stored or (layer.keys, layer.values)))

    facts = loaded.layers(8)[0]
    return (held(2048) - held(1024)) / 1024 / (2 * facts.kv_heads * (facts.width + facts.value_width))


def nbytes(held) -> int:
    """Of tensors, however a backend wraps them."""
    if isinstance(held, tuple | list):
        return sum(map(nbytes, held))
    if isinstance(held, dict):
        return sum(map(nbytes, held.values()))
    if hasattr(held, "__tensor_flatten__"):
        return sum(nbytes(getattr(held, name)) for name in held.__tensor_flatten__()[0])
    return held.nbytes if isinstance(held, Tensor) else 0


def bytes_of_ours(loaded: LoadedModel, how: dict) -> float:
    """The same of ours, all layers."""
    from dataclasses import replace

    layers = [replace(facts, dtype=torch.bfloat16) for facts in loaded.layers(8)]

    def held(tokens: int) -> int:
        return ring(layers, SinkWindow(sinks=4, window=tokens, precision=how), 1).bytes_held()

    whole = sum(2 * facts.kv_heads * (facts.width + facts.value_width) for facts in layers)
    return (held(2048) - held(1024)) / 1024 / whole


if __name__ == "__main__":
    try:
        main()
    except SinkctlError as error:
        raise SystemExit(str(error)) from None
