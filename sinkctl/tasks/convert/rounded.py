"""What keys and values in few bits cost a checkpoint: a stream in full, and the same stream with them rounded.

None of them is recent (R = 0), so that a query sees in full only its own token and the keys of a group that is not
whole yet: what is compared is rounding, not how much of a cache is spared it.
"""

from collections.abc import Sequence

import numpy as np
import torch

from sinkctl.cache.policies import SinkWindow
from sinkctl.cache.precision.settings import Precision
from sinkctl.model.load import LoadedModel
from sinkctl.result.convert import RoundedLine, StreamedLine
from sinkctl.tasks.measure.standard_error import blocks, ratio_error

GROUPS = (32, 16, 8)  # channels of a value that share a range: the first that divides all of them
KEPT = ("none", "first:1")
ROUNDED = 2.7  # what a token costs beside one of a plain forward pass, roughly
BLOCKS = 4  # clusters of a window that a standard error counts


def ways(loaded: LoadedModel, policy: SinkWindow, bits: Sequence[int | str]) -> list[SinkWindow]:
    """The policy at each precision, with nothing in full and, where it has kept tokens, with the first one in full.

    None where no group divides the values' widths.
    """
    widths = {facts.value_width for facts in loaded.layers(policy.reach + 1)} if bits else set()
    group = next((group for group in GROUPS if all(width % group == 0 for width in widths)), None)
    if group is None:
        return []
    precisions = [
        Precision(bits=each, keep=keep, recent=0, group=group) for each in bits for keep in KEPT[: 1 + policy.sinks]
    ]
    return [policy.model_copy(update={"precision": precision}) for precision in precisions]


def rounded_line(full: StreamedLine, full_T: np.ndarray, policy: SinkWindow, nll_T: np.ndarray | None) -> RoundedLine:
    """A stream, its losses, and those of the same stream rounded as `policy` says, nats; None: it could not be."""
    precision, cost, error = policy.precision, None, None
    if nll_T is not None:
        change_T = torch.from_numpy(nll_T.astype(np.float64) - full_T.astype(np.float64))
        cost = float(change_T.mean().expm1())
        error = ratio_error(blocks(change_T, max(1, policy.window // BLOCKS)))
    return RoundedLine(
        checkpoint=full.checkpoint,
        policy=full.policy,
        bits=precision.bits,
        keep=precision.keep,
        group=precision.group,
        cost=cost,
        error=error,
    )
