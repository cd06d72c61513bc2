"""Single tokens over rounded keys and values: whether a kernel does them, and the angles it turns by."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from sinkctl.cache.layers import kept_by
from sinkctl.cache.policies import Keep, PerHead, Policy
from sinkctl.cache.precision.settings import Precision
from sinkctl.kernels import rounded_decode
from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.rounded_decode import Angles, Rule
from sinkctl.model.positions import Rotation
from sinkctl.model.probe import LayerFacts


def rule_of(precision: Precision, keep: Keep) -> Rule:
    """What a layer's queries see, as kernels are told it."""
    return Rule(
        precision.bits, precision.together, precision.group, precision.recent, precision.kept, keep.sinks, keep.window
    )


def step_of(facts: LayerFacts, precision: Precision, keep: Keep) -> tuple[Implementation | None, str]:
    """(what attends for a layer's single tokens, its reason); None where they go through as blocks do."""
    if precision.predicts:
        return None, "which tokens are kept is asked of the host"
    if facts.in_blocks or facts.alibi:
        return None, f"no kernel for {facts.sink or 'ALiBi'}"
    rotation = facts.rotation
    halves = rotation is None or (
        rotation.layout == "half" and rotation.start == 0 and 2 * len(rotation.inv_freq_n) == facts.width
    )
    widths, share = (facts.width, facts.value_width), facts.heads // facts.kv_heads
    return rounded_decode.select(rule_of(precision, keep), facts.device, facts.dtype, widths, share, halves)


def not_captured(layers: Sequence[LayerFacts], policy: Policy) -> str | None:
    """Why a step over rounded keys and values cannot become a CUDA graph; None: it can, or nothing is rounded."""
    if policy.precision is None:
        return None
    if isinstance(policy, PerHead):
        return "heads under two rules are rounded, and go through as blocks do"
    if any(facts.pinned for facts in layers):
        return "rows may turn by frequencies of their own, and their keys are rounded, so they go through as blocks do"
    for facts, keep in zip(layers, kept_by(policy, layers), strict=True):
        if keep.window is not None and keep.window < policy.precision.least_window:
            continue  # in full
        chosen, reason = step_of(facts, policy.precision, keep)
        if chosen is None:
            return f"rounded keys and values are dequantized, and go through as blocks do ({reason})"
    return None


@dataclass
class Turns:
    """The angles of every rotation that steps have met, as far as they have to reach."""

    _found: dict[tuple, Angles] = field(default_factory=dict)

    def of(self, rotation: Rotation | None, facts: LayerFacts, together: int, reach: int) -> Angles:
        """Those of distances 0 … reach, in groups of `together` tokens; no rotation turns by nothing."""
        key = (id(rotation), facts.device, facts.width, together)
        coarse, known = reach // together + 1, self._found.get(key)
        if known is None or len(known.coarse_cos_An) < coarse:
            coarse *= 1 if known is None else 2  # so that what grows does so seldom
            if rotation is None:
                rotation = Rotation("half", 0, torch.zeros(facts.width // 2, dtype=torch.float64))
            like = torch.empty(0, dtype=facts.dtype, device=facts.device)
            cos, sin = rotation.table(range(0, together * coarse, together), like)
            fine_cos, fine_sin = rotation.table(range(together), like)
            self._found[key] = Angles(cos, sin, fine_cos, fine_sin, rotation.start, rotation.layout == "interleaved")
        return self._found[key]
