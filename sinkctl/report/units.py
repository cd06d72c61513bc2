"""Numbers as people read them: counts, bytes, perplexities, durations."""

import math

NOTHING = "–"


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
