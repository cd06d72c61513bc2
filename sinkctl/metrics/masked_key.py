"""Keys hidden from later queries, and what that does to a prediction.

N samples, T queries, S keys, V vocabulary.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from sinkctl.metrics.next_token import Seen

LIKELIEST = 5


def hide(keys: Iterable[int], first: int = 0) -> Seen:
    """Hide these keys from the queries from `first` on, for `next_token`; a key stays seen at its own place.

    With `first` 0 they are hidden from every later query, so that what they did may form elsewhere; with a later
    `first`, from queries that come when it has formed, and whose past was made with these keys.
    """
    hidden = torch.tensor(list(keys), dtype=torch.long)

    def seen(query_T1: Tensor, key_S: Tensor) -> Tensor:
        return ~torch.isin(key_S, hidden.to(key_S.device)) | (key_S == query_T1) | (query_T1 < first)

    return seen


def hide_each(keys_N: Sequence[Iterable[int]], first: int = 0) -> Seen:
    """As `hide`, of each sample keys of its own: what is seen is [N, 1, T, S]."""
    each = [hide(keys, first) for keys in keys_N]
    return lambda query_T1, key_S: torch.stack([seen(query_T1, key_S) for seen in each])[:, None]


def hide_nearest(count: int, first: int = 0) -> Seen:
    """Hide from every query from `first` on the `count` keys right before it."""

    def seen(query_T1: Tensor, key_S: Tensor) -> Tensor:
        distance_TS = query_T1 - key_S
        return (distance_TS <= 0) | (distance_TS > count) | (query_T1 < first)

    return seen


def agreement(logits_NV: Tensor, changed_NV: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p‖q) in nats, and the share of p's five likeliest tokens that are among q's: [N] each, float64."""
    p_NV, q_NV = (x.double().log_softmax(-1) for x in (logits_NV, changed_NV))
    # xlogy-like: a token that p excludes adds nothing, whatever q says of it.
    kl_N = torch.where(p_NV.isneginf(), 0.0, p_NV.exp() * (p_NV - q_NV)).sum(-1)
    best = min(LIKELIEST, p_NV.shape[-1])
    p_N5, q_N5 = (x.topk(best).indices for x in (p_NV, q_NV))
    return kl_N, (p_N5[:, :, None] == q_N5[:, None]).any(-1).double().mean(-1)
