"""What `retrofit.py` finds of a checkpoint: what it predicts of two texts, streamed and rounded; the needle it finds.

Shapes: N samples, T tokens, V vocabulary, C channels.
"""

import json
import math
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sinkctl
from sinkctl.errors import ModelError, TextError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.sizes import policy_of
from sinkctl.tasks.convert.training.trained import decoder_layers
from sinkctl.tasks.measure.standard_error import blocks, ratio_error
from sinkctl.text import TokenStream

STOCK = Path(__file__).with_name("stock_losses.py")
ROUNDINGS = (
    ("kv_4", {"bits": 4}), ("kv_3", {"bits": 3}), ("kv_2", {"bits": 2}),
    ("kv_4_by_token", {"bits": 4, "keys": "token", "group": 64}),
)  # fmt: skip
SLIGHTEST = "kv_4"  # which takes more tokens to tell from none
# Of the original alone, which keeps its first tokens: whether what rounding costs is theirs.
FIRST = (("kv_4_by_token_first", {"bits": 4, "keys": "token", "group": 64, "keep": "first:4"}),)
ERROR, BLOCKS = ".error", ".blocks"
BLOCK = 256  # standard errors are of the means of so many tokens, as neighbours are alike
NEEDLE = "niah_single_1"
SOUGHT = (("bare", 1024), ("bare", 2048), ("kept", 2048), ("dense", 2048))  # in texts of a window, and of two


def judged(
    loaded: LoadedModel, original: LoadedModel, texts: dict[str, str], chosen: Any, known: Collection[str] = ()
) -> Iterator[dict[str, Any]]:
    """The numbers of one checkpoint, by name, as they are known; perplexities, KL in nats a token, rates in percent,
    costs as shares. Those `known` already are left out.

    `texts` by name; `chosen` has the sizes: `window`, `tokens` streamed, as many of them as `few_tokens` for all
    roundings but the slightest, `samples` of `sample_length` tokens with everything in sight, how many `needles` are
    looked for. Rounding is judged where it would be used: of the original with four tokens kept, of all others with
    none.
    """
    tokens, own, forms = (4, "kept", ROUNDINGS + FIRST) if loaded is original else (0, "bare", ROUNDINGS)
    for name, file in texts.items():
        coming = [(form, how) for form, how in forms if f"{name}.{form}" not in known]
        full = losses(loaded, file, {"bare": kept(0, chosen), "kept": kept(4, chosen)}, chosen) if coming else {}
        yield {f"{name}.{key}": math.exp(nll.mean()) for key, nll in full.items()}
        for form, how in coming:
            few = {form: kept(tokens, chosen) | {"precision": {**how, "recent": 0}}}
            limit = chosen.tokens if form == SLIGHTEST else min(chosen.tokens, chosen.few_tokens)
            (nll,) = losses(loaded, file, few, chosen, limit).values()
            yield cost(f"{name}.{form}", nll - full[own][: len(nll)])
    if "sink_1" not in known:
        yield shown(loaded, next(iter(texts.values())))
    for name, file in texts.items():
        if f"{name}.dense" not in known:
            found = predicted(loaded, original, samples(file, loaded, chosen.samples, chosen.sample_length))
            yield {f"{name}.{key}": value for key, value in found.items()}
    yield from needles(loaded, chosen, known) if chosen.needles else ()


def needles(loaded: LoadedModel, chosen: Any, known: Collection[str] = ()) -> Iterator[dict[str, float]]:
    """The share of RULER's texts (Hsieh et al. 2024, arXiv 2404.06654) whose needle is told, in percent."""
    from sinkctl.tasks.bench.harness import SinkctlLM, evaluate  # the extra `eval`

    caches = {"bare": f"0+{chosen.window}", "kept": f"4+{chosen.window}", "dense": "dense"}
    for name, length in SOUGHT:
        if (key := f"{name}.needle_{length}") not in known:
            lm = SinkctlLM(loaded, policy_of(caches[name]))
            found = evaluate(lm, NEEDLE, None, chosen.needles, length)
            yield {key: 100 * found["results"][f"{length},none"]}


def samples(file: str, loaded: LoadedModel, count: int, length: int) -> Tensor:
    """Spread over the text, without what stands in front of texts: [N, T]; TextError where it is shorter than one."""
    ids_T = torch.cat([torch.from_numpy(block.ids) for block in TokenStream([file], loaded.tokenizer)])
    if len(ids_T) < length:
        raise TextError(f"{file}: {len(ids_T):,} tokens are no sample; give more text, or less --sample-length")
    starts = torch.linspace(0, len(ids_T) - length, min(count, len(ids_T) // length)).long()
    return ids_T[starts[:, None] + torch.arange(length)]


def reloaded(folder: Path, loaded: LoadedModel, file: str, chosen: Any) -> dict[str, Any]:
    """The class that transformers alone loads a written checkpoint as, and how far its losses are from those of
    sinkctl's streaming, the largest difference over the tokens of one window, nats."""
    outcome = sinkctl.stream(
        file, model=loaded, policies=[kept(0, chosen)], limit=chosen.window, progress=lambda now: None
    )
    (ours_T,) = outcome.nll.values()
    ids_T = torch.cat([torch.from_numpy(block.ids) for block in TokenStream([file], loaded.tokenizer)])
    fed = [loaded.bos_id] * loaded.uses_bos + ids_T[: chosen.window].tolist()
    said = subprocess.run(
        [sys.executable, str(STOCK), str(folder)], input=json.dumps(fed), capture_output=True, text=True
    )
    if said.returncode:
        raise ModelError(f"{folder}: transformers alone does not load it: {said.stderr.strip()[-300:]}")
    theirs = json.loads(said.stdout)
    return {"stock_class": theirs["class"], "stock_gap": float(np.abs(ours_T - np.array(theirs["nll"])).max())}


@torch.no_grad()
def predicted(loaded: LoadedModel, original: LoadedModel, ids_NT: Tensor) -> dict[str, float]:
    """Perplexity with everything in sight, KL(original ‖ it), and what inputs of linear layers in 8 bits add."""
    nll, kl, rounded = [], [], []
    for ids_T in ids_NT.to(loaded.device):
        log_TV, true_TV = (log_probabilities(each, ids_T) for each in (loaded, original))
        nll.append(-log_TV.gather(1, ids_T[1:, None]).double())
        vocabulary = min(log_TV.shape[1], true_TV.shape[1])
        log_TV, true_TV = log_TV[:, :vocabulary], true_TV[:, :vocabulary]
        kl.append((true_TV.exp() * (true_TV - log_TV)).sum(-1).double())
        with inputs_in_8_bits(loaded.model):
            rounded.append(-log_probabilities(loaded, ids_T).gather(1, ids_T[1:, None]).double())
    loss, change = torch.cat(nll).mean(), torch.cat(rounded).mean() - torch.cat(nll).mean()
    return {"dense": math.exp(loss), "kl": max(0.0, float(torch.cat(kl).mean())), "a_8": math.expm1(change)}


def log_probabilities(loaded: LoadedModel, ids_T: Tensor) -> Tensor:
    """Of all tokens but the first, with in front what the model has in front of texts: [T − 1, V]."""
    front = [loaded.bos_id] if loaded.uses_bos else []
    fed_T = torch.cat([ids_T.new_tensor(front), ids_T])
    return loaded.model(fed_T[None], use_cache=False).logits[0, len(front) : -1].float().log_softmax(-1)


@contextmanager
def inputs_in_8_bits(model: nn.Module) -> Iterator[None]:
    """Inside, every linear layer of the decoder's layers gets its input rounded to 256 steps from least to largest.

    One range a tensor, which is where few large numbers cost all others their precision (Bondarenko et al. 2023).
    """

    def rounded(layer: nn.Module, inputs: tuple) -> tuple:
        x, *rest = inputs
        least, most = x.amin().clamp(max=0), x.amax().clamp(min=0)
        scale = ((most - least) / 255).clamp(min=torch.finfo(torch.float32).tiny)
        return ((x / scale).round() * scale, *rest)

    linear = [m for m in decoder_layers(model).modules() if isinstance(m, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(rounded) for layer in linear]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def kept(tokens: int, chosen: Any) -> dict[str, Any]:
    """The policy that keeps so many first tokens and the window."""
    return {"kind": "sink_window", "sinks": tokens, "window": chosen.window}


def cost(name: str, change_T: Tensor) -> dict[str, Any]:
    """What is added to perplexity, as a share, by the change of each token's loss; its standard error; and the mean
    change of each block."""
    found = blocks(change_T, BLOCK)
    error, means_K = ratio_error(found), found.mean(1).tolist()
    return {name: math.expm1(change_T.mean()), f"{name}{ERROR}": error, f"{name}{BLOCKS}": means_K}


def beside(row: dict[str, Any], other: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
    """What share of another row's each of these costs is, and its standard error, paired block by block, over the
    first blocks, which both were judged by; without those that are not known of two, and those that cost the other
    less than twice its error."""
    found = {}
    for name in names:
        both = [torch.tensor(each.get(f"{name}{BLOCKS}", []), dtype=torch.float64) for each in (row, other)]
        count = min(map(len, both))
        if count < 2:
            continue
        ours_K, theirs_K = (change_K[:count] for change_K in both)
        ours, theirs = (float(change_K.mean().expm1()) for change_K in (ours_K, theirs_K))
        if abs(theirs) <= 2 * float(theirs_K.std()) / count**0.5:
            continue
        apart_K = (1 + ours) * ours_K - ours / theirs * (1 + theirs) * theirs_K
        found |= {name: ours / theirs, f"{name}{ERROR}": float(apart_K.std()) / count**0.5 / abs(theirs)}
    return found


def losses(
    loaded: LoadedModel, file: str, policies: dict[str, dict], chosen: Any, limit: int | None = None
) -> dict[str, Tensor]:
    """The loss of each token past the window, streamed by each policy, nats, float64."""
    limit = chosen.tokens if limit is None else limit
    outcome = sinkctl.stream(
        file, model=loaded, policies=list(policies.values()), limit=limit, progress=lambda now: None
    )
    return {
        name: torch.from_numpy(nll[chosen.window :].astype("float64"))
        for name, nll in zip(policies, outcome.nll.values(), strict=True)
    }


def shown(loaded: LoadedModel, file: str) -> dict[str, float | None]:
    """Sink_1 in percent, the largest activation, it over the median, and the largest kurtosis of a layer."""
    outcome = sinkctl.measure(
        loaded, files=[file], kinds=["natural"], bos="auto", cost={"run": False}, progress=lambda now: None
    )
    (score,) = outcome.result.measure.checkpoints[0].inputs
    layers = [layer for layer in score.layers if layer.massive is not None and layer.massive.top[0] is not None]
    top = max((layer.massive for layer in layers), key=lambda massive: massive.top[0])
    return {
        "sink_1": score.sinks[0].percent,
        "massive": top.top[0],
        "massive_ratio": max(layer.massive.top[0] / layer.massive.median for layer in layers if layer.massive.median),
        "kurtosis": max((layer.kurtosis for layer in score.layers if layer.kurtosis is not None), default=None),
    }


def means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of numbers, over seeds; of costs the blocks too, and the standard error that the mean of the blocks has."""
    names = {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
    kept = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
    found: dict[str, Any] = {name: sum(values) / len(values) for name, values in kept.items() if values}
    for name in [name for row in rows for name in row if name.endswith(BLOCKS)]:
        seeds = [row[name] for row in rows if name in row]
        found[name] = [sum(block) / len(block) for block in zip(*seeds, strict=False)]  # one may be of fewer tokens
        if len(seeds) > 1 and len(found[name]) > 1:
            cost = name.removesuffix(BLOCKS)
            found[f"{cost}{ERROR}"] = (1 + found[cost]) * float(np.std(found[name], ddof=1)) / len(found[name]) ** 0.5
    return found
