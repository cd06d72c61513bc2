"""How numbers and tokens are said in verdicts and reports alike."""

from collections.abc import Iterable


def ranges(numbers: Iterable[int]) -> str:
    """1–3, 7 for 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in runs)


def quoted(token: str) -> str:
    """A token's text in quotation marks, so that its spaces show."""
    return f"“{token}”"
