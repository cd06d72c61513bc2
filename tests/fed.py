"""Tiny models as loaded ones, and texts fed to a cache of theirs in blocks."""

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from sinkctl.cache.streaming import streaming
from sinkctl.model.attention import attached, hidden_states
from sinkctl.model.head import token_nll
from sinkctl.model.load import LoadedModel


def wrap(model) -> LoadedModel:
    return LoadedModel(model, None, "tiny", "in memory")


def rows_of_streaming(model, policy, ids_BT, starts) -> list[torch.Tensor]:
    """NLL of 31 tokens of every row behind its prompt of `starts` tokens, padded on the left, through `streaming()`."""
    longest = max(starts)
    prompt = torch.zeros(len(starts), longest, dtype=torch.int64)
    for row, length in enumerate(starts):
        prompt[row, longest - length :] = ids_BT[row, :length]
    mask, given = (prompt > 0).long(), []
    with streaming(model, policy.sinks, policy.window, policy.precision) as cache, torch.no_grad():
        options = dict(use_cache=True, past_key_values=cache)
        given.append(model(input_ids=prompt, attention_mask=mask, **options).logits[:, -1])
        for step in range(30):
            new = torch.stack([ids_BT[row, length + step] for row, length in enumerate(starts)])[:, None]
            mask = torch.cat([mask, torch.ones(len(starts), 1, dtype=torch.int64)], 1)
            given.append(model(input_ids=new, attention_mask=mask, **options).logits[:, -1])
    targets = [ids_BT[row, length : length + 31] for row, length in enumerate(starts)]
    return [
        cross_entropy(torch.stack([logits[row] for logits in given]), target, reduction="none")
        for row, target in enumerate(targets)
    ]


def losses(loaded, ring, ids_BT, blocks, recurrent=None) -> np.ndarray:
    """NLL of the tokens 1 … T of every row, fed in blocks."""
    found, start = [], 0
    for tokens in blocks:
        part, after = ids_BT[:, start : start + tokens], ids_BT[:, start + 1 : start + tokens + 1]
        with attached(loaded.model, ring):
            output = hidden_states(loaded.model, part, past=recurrent)
        found.append(token_nll(loaded.model, output, part, after))
        ring.advance(tokens)
        start += tokens
    return torch.cat(found, 1).numpy()
