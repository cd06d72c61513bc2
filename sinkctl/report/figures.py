"""Numbers of `measure` and `convert` as people read them; whatever is missing or not finite is a sign, never `nan`."""

import math

from sinkctl.report.units import NOTHING

Number = float | None


def known(value: Number) -> bool:
    """Whether there is a finite number."""
    return value is not None and math.isfinite(value)


def percent(value: Number) -> str:
    """97.5%, and below one percent 0.25%."""
    if not known(value):
        return NOTHING
    return f"{value:.1f}%" if abs(value) >= 1 else f"{value:.2f}%"


def share(value: Number) -> str:
    """A part of 1: 0.931."""
    return f"{value:.3f}" if known(value) else NOTHING


def figures(value: Number) -> str:
    """Three figures, and every digit of the whole part up to a million: 0.0741, 3.20, 3,024, 4.71e6."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) >= 1e6:
        return _short_exponent(f"{value:.2e}")
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    return "0" if value == 0 else _short_exponent(f"{value:#.3g}".rstrip("."))


def place(value: Number) -> str:
    """An index, or a median of indices: 17, 17.5."""
    return f"{value:,.10g}" if known(value) else NOTHING


def error(value: Number) -> str:
    """An order of magnitude: 2e-7."""
    if not known(value):
        return NOTHING
    return _short_exponent(f"{value:.0e}") if value else "0"


def times(value: Number, base: Number) -> str:
    """1.017×, 1,750×."""
    ratio = quotient(value, base)
    return NOTHING if ratio is None else f"{figures(ratio)}×" if ratio >= 10 else f"{ratio:.3f}×"


def ratio(value: Number, base: Number) -> str:
    """1.017 (+1.7%); from ten times on 1,750×."""
    ratio = quotient(value, base)
    return f"{ratio:.3f} ({ratio - 1:+.1%})" if ratio is not None and ratio < 10 else times(value, base)


def difference(value: Number, base: Number) -> str:
    """+1.7%, below one percent +0.25%; from ten times on 1,750×."""
    ratio = quotient(value, base)
    if ratio is None or ratio >= 10:
        return times(value, base)
    change = round(100 * (ratio - 1), 2) or 0.0  # never −0
    return f"{change:+.1f}%" if abs(change) >= 1 else f"{change:+.2f}%"


def quotient(value: Number, base: Number) -> Number:
    """`value` / `base`, or None where there is none."""
    return value / base if known(value) and known(base) and base else None


def _short_exponent(number: str) -> str:
    """1.2e-07 as 1.2e-7."""
    head, sign, exponent = number.partition("e")
    return f"{head}e{int(exponent)}" if sign else head
