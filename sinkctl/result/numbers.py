"""Numbers as people read them, in verdicts and in every report alike; what is missing or not finite is a sign."""

import math

NOTHING = "–"
ABSENT = "n/a"  # what could not be measured, and says elsewhere why
Number = float | None


def count(value: int) -> str:
    """Every digit: 20,000."""
    return f"{value:,}"


def short_count(value: float) -> str:
    """Three digits: 512, 10k, 2M, 7.24B."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def memory(value: float) -> str:
    """Bytes in binary units: 812 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def rate(value: float, unit: str) -> str:
    """In decimal units: 741 TFLOP/s, 4.27 TB/s."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def perplexity(value: float | None) -> str:
    """About four digits; a dash where nothing was scored."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞"
    if value >= 1e6:
        return f"{value:.2e}".replace("e+0", "e").replace("e+", "e")
    digits = 3 if value < 10 else 2 if value < 100 else 1 if value < 1000 else 0
    return f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """0.53 s, 12 min 05 s, 3 h 04 min."""
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{count(hours)} h {minutes:02} min"


def quantity(value: float, unit: str) -> str:
    """A measured value with its unit."""
    if not math.isfinite(value):
        return NOTHING
    if unit in ("bytes", "B"):
        return memory(value)
    if unit == "s":
        return duration(value)
    if unit == "perplexity":
        return perplexity(value)
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{number} {unit}".rstrip()


def known(value: Number) -> bool:
    """Whether there is a finite number."""
    return value is not None and math.isfinite(value)


def percent(value: Number) -> str:
    """Of a number in percent: 97.5 %, below one percent 0.25 %."""
    if not known(value):
        return NOTHING
    return f"{value:.1f} %" if abs(value) >= 1 or not value else f"{value:.2f} %"


def part(value: Number) -> str:
    """A share in percent: 0.975 as 97.5 %."""
    return percent(None if value is None else 100 * value)


def change(value: Number) -> str:
    """Of a share, with its sign: +1.7 %, below one percent +0.25 %."""
    if not known(value):
        return NOTHING
    points = round(100 * value, 2) or 0.0  # never −0
    return f"{points:+,.1f} %" if abs(points) >= 1 else f"{points:+.2f} %"


def points(value: Number) -> str:
    """A share as percentage points beside what is in percent, such as a standard error: 12, 3.4, 0.12."""
    if not known(value):
        return NOTHING
    digits = 0 if 100 * value >= 9.95 else 1 if 100 * value >= 0.995 else 2
    return f"{100 * value:,.{digits}f}"


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


def difference(value: Number, base: Number) -> str:
    """+1.7 %, below one percent +0.25 %; from ten times on 1,750×."""
    ratio = quotient(value, base)
    return times(value, base) if ratio is None or ratio >= 10 else change(ratio - 1)


def quotient(value: Number, base: Number) -> Number:
    """`value` / `base`, or None where there is none."""
    return value / base if known(value) and known(base) and base else None


def _short_exponent(number: str) -> str:
    """1.2e-07 as 1.2e-7."""
    head, sign, exponent = number.partition("e")
    return f"{head}e{int(exponent)}" if sign else head
