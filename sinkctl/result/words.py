"""How numbers and tokens are said in verdicts and reports alike."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sinkctl.result.numbers import count, percent

if TYPE_CHECKING:
    from sinkctl.result.measure import InputScore, KeyGroup


def ranges(numbers: Iterable[int]) -> str:
    """1–3, 7 for 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in runs)


def massive_layers(score: "InputScore") -> str:
    """11–27; where not all samples have massive activations: 11–27, in at most 6 of 8 samples."""
    known = [layer.massive.samples for layer in score.layers if layer.massive and layer.massive.samples is not None]
    said, most = ranges(score.massive_layers), max(known, default=score.samples)
    return said if most == score.samples else f"{said}, in at most {count(most)} of {count(score.samples)} samples"


def quoted(token: str) -> str:
    """A token's text in quotation marks, so that its spaces show."""
    return f"“{token}”"


def group_line(groups: "Sequence[KeyGroup]") -> str:
    """62.8 % goes to sound (36.7 % of the keys), 37.2 % to padding (63.3 %)."""
    names = ["the first token" if group.name == "first" else group.name for group in groups]
    said = [
        f"{percent(group.percent)} goes to {name} ({percent(group.keys)} of the keys)"
        for name, group in zip(names, groups, strict=True)
    ]
    return ", ".join([*said[:1], *(each.replace(" goes to", " to").replace(" of the keys", "") for each in said[1:])])
