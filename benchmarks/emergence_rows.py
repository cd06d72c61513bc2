"""The rows of `emergence.py`: what Gu et al. 2024 (arXiv 2410.10781, 60 M parameters, 5 billion tokens) found, and
whether ours says the same.

A row is a recipe of `recipes/convert/emergence`, by its name. Its effect is that against a baseline, another row.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

BASELINE = "softmax"
SAME = {"decay_0p5": BASELINE}  # rows that are another by their recipe
FEWER = {
    "window_16": 16,
    "window_32": 32,
}  # rows whose Sink_1 is over so few queries, as their baseline's beside it is
IN_SIGHT = "what a query sees"  # the group whose Sink_* is of tokens of the text, not of a learned sink
GROUPS = {
    "the baseline": ("softmax",),
    "weight decay": ("decay_*",),
    "learning rate": ("lr_*",),
    "batch": ("batch_*",),
    "optimizer": ("muon_*",),
    "data": ("unique_*", "packed_*"),
    IN_SIGHT: ("prefix_*", "window_*"),
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
    sign: int | None = None  # of the effect, where it is told in words: 0 where they say that there is none

    def effect(self) -> float | None:
        """What it adds to the baseline's number, in points; None where one of the two is not published."""
        own, theirs = getattr(self, self.of, None), getattr(published(self.against), self.of, None)
        return None if own is None or theirs is None else own - theirs

    def direction(self) -> float | None:
        """What has the sign of the effect: what they say of it, else the effect; None where neither is published."""
        return self.effect() if self.sign is None else self.sign


def published(row: str) -> Published:
    return PUBLISHED.get(row, Published())


def _decay(rate: float, loss: float) -> Published:
    return Published(rate, loss=loss, against="decay_0p1")


def _fixed(star: float, sink_1: float, loss: float) -> Published:
    return Published(sink_1, star, loss, against="key_bias", of="sink_star")


# Tables 2 to 6 and 9 to 15. The rows of decay have a baseline of their own, as ours decays by 0.5 and theirs by 0.1.
# Of batches, activations and heads they say that these do not affect it, and print such numbers.
PUBLISHED = {
    "softmax": Published(18.18, None, 3.73),
    "sink_token": Published(0.0, 74.12, 3.72),
    "kv_bias": Published(0.04, 72.76, 3.72),
    "key_bias": Published(0.0, 73.34, 3.72),
    "value_bias": Published(17.53, None, 3.73, sign=0),
    "sigmoid": Published(0.44, None, 3.70),
    "sigmoid_normalised": Published(30.24, None, 3.74),
    "elu": Published(0.80, None, 3.69),
    "decay_0": _decay(15.2, 3.72),
    "decay_0p001": _decay(15.39, 3.72),
    "decay_0p01": _decay(15.23, 3.72),
    "decay_0p1": _decay(18.18, 3.73),
    "decay_0p5": _decay(41.08, 3.80),
    "decay_1": _decay(37.71, 3.90),
    "decay_2": _decay(6.13, 4.23),
    "decay_5": _decay(0.01, 5.24),
    "lr_double": Published(32.23, None, 3.70),
    "lr_double_short": Published(23.44, None, 3.79),
    "lr_half": Published(11.21, None, 3.78),
    "lr_half_long": Published(16.81, None, 3.68),
    "lr_quarter": Published(2.90, None, 3.92),
    "lr_quarter_long": Published(6.29, None, 3.67),
    "batch_32": Published(16.45, None, 3.92, sign=0),
    "batch_64": Published(17.19, None, 3.78, sign=0),
    "batch_256": Published(16.19, None, 3.68, sign=0),
    "no_positions": Published(20.35, None, 3.81),
    "sinusoidal_positions": Published(32.73, None, 3.74),
    "learned_positions": Published(33.13, None, 3.79),
    "alibi": Published(20.78, None, 3.71),
    "heads_1": Published(19.50, None, 3.78, sign=0),
    "heads_6": Published(sign=0),
    "heads_12": Published(sign=0),
    "gelu": Published(17.86, None, 3.73, sign=0),
    "relu": Published(13.88, None, 3.75, sign=0),
    "value_one_1": _fixed(70.03, 0.06, 3.72),
    "value_one_5": _fixed(44.43, 3.71, 3.72),
    "value_one_20": _fixed(1.51, 25.88, 3.71),
    "value_even_1": _fixed(69.74, 2.15, 3.72),
    "value_even_5": _fixed(27.99, 5.93, 3.72),
    "value_even_20": _fixed(0.0, 11.21, 3.73),
    "key_channels_1": _fixed(32.18, 4.74, 3.73),
    "key_channels_2": _fixed(30.88, 4.96, 3.72),
    "key_channels_4": _fixed(30.94, 4.39, 3.72),
    "key_channels_8": _fixed(31.39, 4.54, 3.73),
    "key_channels_16": _fixed(23.30, 2.19, 3.73),
    "key_channels_32": _fixed(51.23, 1.94, 3.73),
    "key_channels_64": _fixed(69.19, 0.04, 3.72),
    "normaliser_2": Published(29.10, None, 3.72),
    "normaliser_0p5": Published(sign=-1),  # between 0.2 (9.41 %) and 1
    "normaliser_0p1": Published(3.59, None, 3.76),
    "kernel_elu": Published(53.65, None, 4.19),
    "kernel_identity_plain": Published(0.0, None, 3.99),
    "kernel_mlp": Published(0.19, None, 3.85),
    "kernel_mlp_plain": Published(0.74, None, 3.91),
    "unique_1m": Published(sign=-1),
    "unique_5m": Published(sign=-1),
    "unique_20m": Published(sign=-1),
    "opt_pre_norm": Published(18.18, None, 3.73, against="opt_pre_norm"),  # theirs is the softmax row, normed otherwise
    "opt_post_norm": Published(13.54, against="opt_pre_norm"),
    "prefix_8": Published(sign=-1),  # from the first token to others of the prefix
    "prefix_32": Published(sign=-1),
    "window_16": Published(sign=-1),
    "window_32": Published(sign=-1),
    "window_64": Published(sign=-1),
    "window_128": Published(sign=-1),
    # Not of that study: Zuhri et al. 2025 (arXiv 2504.20966); Qiu et al. 2025 (arXiv 2505.06708), two places of a gate.
    "softpick": Published(sign=-1),
    "gate": Published(sign=-1),
    "gate_value": Published(sign=-1),
}


def of_fewer(queries: int) -> str:
    """The name of the baseline's Sink_1 over its first so many queries."""
    return f"sink_1_of_{queries}"


@dataclass(frozen=True)
class Seeds:
    """One number of a row, by seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def squares(self) -> float:
        """The sum of squared differences from the mean."""
        return sum((value - self.mean) ** 2 for value in self.values)


HAS_SINK = 5.0  # percent: a row of less varies less than others from seed to seed, and tells nothing of them

# Student's t that is exceeded on either side once in 20, of 1, 2, … degrees of freedom.
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Chance:
    """What two seeds of one row differ by: their standard deviation, and its degrees of freedom."""

    deviation: float
    freedom: int

    def of(self, row: Seeds, baseline: Seeds) -> float:
        """What the means of two rows differ by, by chance alone, once in 20 pairs of so many seeds each."""
        student = STUDENT[min(self.freedom, len(STUDENT)) - 1]
        return student * self.deviation * math.sqrt(1 / len(row.values) + 1 / len(baseline.values))


def chance_of(rows: Iterable[Seeds]) -> Chance | None:
    """From every row with a sink that ran with several seeds, as if all varied alike (a pooled variance); None without
    any."""
    several = [row for row in rows if len(row.values) > 1 and row.mean >= HAS_SINK]
    freedom = sum(len(row.values) - 1 for row in several)
    return Chance(math.sqrt(sum(row.squares for row in several) / freedom), freedom) if freedom else None


def compared(theirs: Published, row: Seeds | None, baseline: Seeds | None, chance: Chance | None) -> str:
    """Whether our effect is as published: agree, not, within chance, not run, or – (none published).

    Within chance an effect has no sign. "agree (none)": they too say that there is none.
    """
    if row is None or baseline is None:
        return "not run"
    direction = theirs.direction()
    if direction is None:
        return "–"
    if chance is None:
        return "no seeds"
    effect = row.mean - baseline.mean
    if abs(effect) <= chance.of(row, baseline):
        return "within chance" if direction else "agree (none)"
    return "agree" if effect * direction > 0 else "not"
