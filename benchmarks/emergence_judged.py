"""What `emergence.py` reads from a trained checkpoint's maps, where its run does not tell.

Shapes: N samples, H heads, T queries, S keys, L layers, V vocabulary, k of a prefix's tokens, n predicted tokens.
"""

import argparse
from pathlib import Path

import torch

import sinkctl
from sinkctl.metrics.sink_rate import EPSILON
from sinkctl.tasks.convert.evaluate import SINK_LENGTH, SINK_SAMPLES
from sinkctl.text import TokenStream

AT_ONCE = 10  # samples whose maps are held together


@torch.no_grad()
def sink_1_of_shares(checkpoint: Path, options: argparse.Namespace) -> float:
    """Sink_1 in percent where sizes of weights are divided by their sum, a query, over spread samples of 64 tokens."""
    loaded, ids_NT = loaded_and_samples(checkpoint, SINK_SAMPLES, SINK_LENGTH, options)
    sinks = []
    for map_NHTS in loaded.model(ids_NT, output_attentions=True).attentions:
        size_NHTS = map_NHTS.abs()
        first_NHT = (size_NHTS[..., 0] / size_NHTS.sum(-1)).nan_to_num()
        sinks.append(first_NHT.mean(-1) > EPSILON)
    return 100 * float(torch.stack(sinks).float().mean())


@torch.no_grad()
def sink_1_behind_token(checkpoint: Path, options: argparse.Namespace) -> float:
    """Sink_1 in percent of the first token behind the sink token, over spread samples of 64 tokens behind it."""
    loaded, ids_NT = loaded_and_samples(checkpoint, SINK_SAMPLES, SINK_LENGTH + 1, options)
    maps = loaded.model(ids_NT, output_attentions=True).attentions
    alpha_LNH = torch.stack([map_NHTS[..., 1:, 1].float().mean(-1) for map_NHTS in maps])
    return 100 * float((alpha_LNH > EPSILON).float().mean())


@torch.no_grad()
def with_prefix(checkpoint: Path, prefix: int, options: argparse.Namespace) -> dict[str, float]:
    """Sink_1, heads that sink on any token of the prefix, and the loss behind it, where every query sees the prefix."""
    loaded, ids_NT = loaded_and_samples(checkpoint, SINK_SAMPLES, SINK_LENGTH, options)
    shown_TT = torch.ones(SINK_LENGTH, SINK_LENGTH, device=loaded.device).tril().bool()
    shown_TT[:, :prefix] = True
    mask_TT = torch.zeros_like(shown_TT, dtype=loaded.dtype).masked_fill(~shown_TT, torch.finfo(loaded.dtype).min)
    found = loaded.model(
        ids_NT, attention_mask=mask_TT.expand(len(ids_NT), 1, -1, -1), output_attentions=True, use_cache=False
    )
    alpha_LNHk = torch.stack([map_NHTS[..., :prefix].float().mean(2) for map_NHTS in found.attentions])
    logits_nV = found.logits[:, prefix - 1 : -1].float().flatten(0, 1)
    return {
        "sink_1": 100 * float((alpha_LNHk[..., 0] > EPSILON).float().mean()),
        "sink_star": 100 * float((alpha_LNHk.amax(-1) > EPSILON).float().mean()),
        "valid_loss": float(torch.nn.functional.cross_entropy(logits_nV, ids_NT[:, prefix:].flatten())),
    }


@torch.no_grad()
def in_windows(checkpoint: Path, window: int, options: argparse.Namespace) -> dict[str, float]:
    """Whether heads sink on the first token, or on the oldest one in sight, where queries see `window` tokens.

    `sink_1`: over the queries that see the first token, 64 at most; over 64 queries of a window of 16, a mean of 0.3
    could not be reached. `sink_star`: over as many queries that no longer see it, of the oldest key that each sees.
    """
    queries = min(window, SINK_LENGTH)
    loaded, ids_NT = loaded_and_samples(checkpoint, SINK_SAMPLES, window + queries, options)
    first, oldest = [], []
    for ids_nT in ids_NT.split(AT_ONCE):
        for map_nHTS in loaded.model(ids_nT, output_attentions=True, use_cache=False).attentions:
            late_nHTS = map_nHTS[..., window:, 1 : 1 + queries].float()
            first.append(map_nHTS[..., :queries, 0].float().mean(-1) > EPSILON)
            oldest.append(late_nHTS.diagonal(dim1=-2, dim2=-1).mean(-1) > EPSILON)
    return {
        "sink_1": 100 * float(torch.cat(first).float().mean()),
        "sink_star": 100 * float(torch.cat(oldest).float().mean()),
    }


def loaded_and_samples(checkpoint: Path, count: int, length: int, options: argparse.Namespace):
    """(the checkpoint with its maps, spread samples of the held-out text with BOS in front, [count, length])."""
    loaded = sinkctl.load(str(checkpoint), device=options.device)
    loaded.model.set_attn_implementation("eager")
    ids_T = torch.cat([torch.from_numpy(b.ids) for b in TokenStream((options.held_out,), loaded.tokenizer)])
    starts = torch.linspace(0, len(ids_T) - length, count).long()
    ids_NT = ids_T[starts[:, None] + torch.arange(length)]
    ids_NT[:, 0] = loaded.bos_id
    return loaded, ids_NT.to(loaded.device)
