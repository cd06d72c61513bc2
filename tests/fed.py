"""Tiny models as loaded ones, and texts fed to a cache of theirs in blocks."""

import numpy as np
import torch

from sinkctl.model.attention import attached, hidden_states
from sinkctl.model.head import token_nll
from sinkctl.model.load import LoadedModel


def wrap(model) -> LoadedModel:
    return LoadedModel(model, None, "tiny", "in memory")


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
