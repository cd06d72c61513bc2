"""What a thing taken away costs, and how sure that is: paired differences of losses, token by token.

Losses of neighbouring tokens are alike, so tokens are no independent draws: the standard error is that of the means of
clusters, samples of a text or, in a stream, blocks of a quarter of its window (batch means; whole windows would be too
few to tell). With d̄ the mean of K clusters' means and s their standard deviation, SE(d̄) = s/√K, and to first order (the
delta method) the ratio of perplexities exp(d̄) has the error exp(d̄)·SE(d̄). With few clusters it is itself rough: by
1/√(2(K−1)), a quarter at 9.
"""

import math

from torch import Tensor


def ratio_error(change_KT: Tensor) -> float | None:
    """Standard error of exp(mean of the change in NLL), a row a cluster: [K, T] nats; None of a single cluster."""
    mean_K = change_KT.double().mean(1)
    if len(mean_K) < 2:
        return None
    error = float(mean_K.mean().exp() * mean_K.std() / len(mean_K) ** 0.5)
    return error if math.isfinite(error) else None


def blocks(change_T: Tensor, length: int) -> Tensor:
    """A stream's changes in blocks of `length` tokens, at least two where it has two tokens; the rest is left out."""
    length = max(1, min(length, len(change_T) // 2))
    return change_T[: len(change_T) // length * length].view(-1, length)
