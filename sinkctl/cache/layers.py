"""What a policy does in each layer of a model, in words."""

from collections.abc import Sequence

from sinkctl.cache.policies import Keep, PerLayer, Policy
from sinkctl.cache.redistribution.heads import moved_heads
from sinkctl.errors import UsageError
from sinkctl.model.probe import LayerFacts


def kept_by(policy: Policy, layers: Sequence[LayerFacts]) -> list[Keep]:
    """What each layer keeps; UsageError where the policy names one that is none of them."""
    numbers = [facts.number for facts in layers]
    if isinstance(policy, PerLayer) and (unknown := sorted(set(policy.whole) - set(numbers))):
        raise UsageError(
            f"--policy {policy.label}: layer {unknown[0]} is none with attention; the model's are {ranges(numbers)}"
        )
    return [policy.keep(facts.window, facts.number) for facts in layers]


def layer_lines(policy: Policy, layers: Sequence[LayerFacts], recurrent: Sequence[int] = ()) -> list[str]:
    """One line a kind of layer, with the layers' numbers; `recurrent` are those of recurrent layers."""
    kinds: dict[str, list[int]] = {}
    each = moved_heads(layers, policy) or [None] * len(layers)
    for facts, keep, moved in zip(layers, kept_by(policy, layers), each, strict=True):
        kept = policy.said(keep)
        if facts.window is not None and keep == (0, facts.window):
            kept = f"stays as trained, the last {facts.window} tokens"
        if policy.precision is not None:
            rounded = keep.window is None or keep.window >= policy.precision.least_window
            kept += f", {policy.precision.label}" if rounded else ", in full: too few to be rounded"
        turned = "ALiBi" if facts.alibi else "not rotated"
        if facts.rotation is not None:
            turned = (
                f"rotary, {2 * len(facts.rotation.inv_freq_n)} of {facts.width} dimensions, {facts.rotation.layout}"
            )
        extra = ", learned sink logits" if facts.sink_logit else ""
        extra = extra if facts.sink is None else f", designed sink: {facts.sink}"
        if facts.pinned:
            extra += ", frequencies of long texts"
        if moved is not None:
            extra += f", {moved.share:g} of the first token's attention redistributed in {moved.words(facts.heads)}"
        kinds.setdefault(f"{kept}; {turned}{extra}", []).append(facts.number)
    if recurrent:
        kinds["recurrent state carried between blocks"] = recurrent
    return [f"layers {ranges(indices)}: {kind}" for kind, indices in kinds.items()]


def ranges(indices: Sequence[int]) -> str:
    """0, 1, 2, 5 → '0-2, 5'."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
