"""The rows of `emergence.py`: what Gu et al. 2024 (arXiv 2410.10781, 60 M parameters, 5 billion tokens) found, and
whether ours says the same.

A row is a recipe of `recipes/convert/emergence`, by its name. Its effect is that against a baseline, another row.
"""

from dataclasses import dataclass
from typing import Literal

BASELINE = "softmax"
SAME = {"decay_0p5": BASELINE}  # rows that are another by their recipe
GROUPS = {
    "the baseline": ("softmax",),
    "weight decay": ("decay_*",),
    "learning rate": ("lr_*",),
    "batch": ("batch_*",),
    "optimizer": ("muon_*",),
    "data": ("unique_*", "packed_*"),
    "what a query sees": ("prefix_*", "window_*"),
    "positions": ("*_positions", "alibi"),
    "heads, MLPs, norms": ("heads_*", "gelu", "relu", "opt_*"),
    "a learned sink": ("sink_token", "kv_bias", "key_bias", "value_bias", "softmax1"),
    "a key with a fixed value": ("value_one_*", "value_even_*"),
    "a key of few channels": ("key_channels_*",),
    "weights": ("sigmoid*", "elu*", "normaliser_*", "power_*", "softpick", "sigsoftmax", "clipped_softmax"),
    "kernels": ("kernel_*",),
    "gates": ("gate*",),
}  # of a table: patterns of rows


@dataclass(frozen=True)
class Published:
    """Of a row, as published; None is not stated there. Rates in percent, loss in nats a token."""

    sink_1: float | None = None
    sink_star: float | None = None  # heads that sink on the mechanism itself
    loss: float | None = None
    against: str = BASELINE  # the row that its effect is measured against
    of: Literal["sink_1", "sink_star"] = "sink_1"  # the number whose sign is compared
    sign: int | None = None  # of the effect, where it is told in words, or by another number

    def effect(self) -> float | int | None:
        """What it adds to the baseline's number, or its sign; None where neither is published."""
        ours, theirs = getattr(self, self.of, None), getattr(published(self.against), self.of, None)
        return self.sign if ours is None or theirs is None else ours - theirs


def published(row: str) -> Published:
    return PUBLISHED.get(row, Published())


def _decay(rate: float) -> Published:
    return Published(rate, against="decay_0p1")


def _fixed(star: float, sink_1: float | None = None) -> Published:
    return Published(sink_1, star, against="key_bias", of="sink_star")


# Tables 1 and 4 to 6. The rows of decay have a baseline of their own, as ours decays by 0.5 and theirs by 0.1.
PUBLISHED = {
    "softmax": Published(18.18, None, 3.73),
    "sink_token": Published(0.0, 74.12, 3.72),
    "kv_bias": Published(0.04, 72.76, 3.72),
    "key_bias": Published(0.0, 73.34, 3.72),
    "value_bias": Published(17.53, None, 3.73),
    "sigmoid": Published(0.44, None, 3.70),
    "sigmoid_normalised": Published(30.24, None, 3.74),
    "elu": Published(0.80, None, 3.69),
    "decay_0": _decay(15.2),
    "decay_0p001": _decay(15.4),
    "decay_0p01": _decay(15.2),
    "decay_0p1": _decay(18.2),
    "decay_0p5": _decay(41.1),
    "decay_1": _decay(37.7),
    "decay_2": _decay(6.1),
    "decay_5": _decay(0.01),
    "lr_double": Published(32.2),
    "lr_half": Published(11.2),
    "lr_quarter": Published(2.9),
    "no_positions": Published(20.35),
    "sinusoidal_positions": Published(32.73),
    "learned_positions": Published(33.13),
    "alibi": Published(20.78),
    "value_one_1": _fixed(70.0, 0.06),
    "value_one_5": _fixed(44.4, 3.71),
    "value_one_20": _fixed(1.5, 25.88),
    "value_even_1": _fixed(69.7),
    "value_even_5": _fixed(28.0),
    "value_even_20": _fixed(0.0),
    "key_channels_1": _fixed(32.2),
    "key_channels_64": _fixed(69.2),
    "kernel_elu": Published(53.65, None, 4.19),
    "unique_1m": Published(sign=-1),
    "unique_5m": Published(sign=-1),
    "unique_20m": Published(sign=-1),
    "opt_pre_norm": Published(against="opt_pre_norm"),
    "opt_post_norm": Published(against="opt_pre_norm"),
    "prefix_8": Published(sign=-1),  # from the first token to others of the prefix
    "prefix_32": Published(sign=-1),
    "window_16": Published(sign=-1),
    "window_32": Published(sign=-1),
    # Not of that study: Zuhri et al. 2025 (arXiv 2504.20966); Qiu et al. 2025 (arXiv 2505.06708), two places of a gate.
    "softpick": Published(sign=-1),
    "gate": Published(sign=-1),
    "gate_value": Published(sign=-1),
}


@dataclass(frozen=True)
class Seeds:
    """One number of a row, by seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def spread(self) -> float | None:
        """Between the largest and the smallest; None of one seed."""
        return max(self.values) - min(self.values) if len(self.values) > 1 else None


def compared(effect: float | None, row: Seeds | None, baseline: Seeds | None, chance: float | None = None) -> str:
    """Whether ours has the sign of the published effect: agree, not, within chance, not run, or – (none published).

    Within chance: our effect is no larger than what seeds of the row, or of its baseline, differ by; where both have
    one seed, than `chance`, what seeds of other rows differ by.
    """
    if row is None or baseline is None:
        return "not run"
    if effect is None:
        return "–"
    ours = row.mean - baseline.mean
    spreads = [seeds.spread for seeds in (row, baseline) if seeds.spread is not None]
    if abs(ours) <= max(spreads or [chance or 0.0]):
        return "within chance"
    word = "agree" if ours * effect > 0 else "not"
    return word if len(spreads) == 2 else f"{word} (1 seed)"
