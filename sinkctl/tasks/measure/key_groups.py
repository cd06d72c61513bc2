"""What each kind of keys, such as image tokens, receives."""

from collections.abc import Sequence
from math import isfinite

from sinkctl.result.measure import KeyGroup
from sinkctl.tasks.measure.input_set import InputSet
from sinkctl.tasks.measure.tally import Row


def key_groups(rows: Sequence[Row], shown: InputSet) -> list[KeyGroup]:
    """What kinds of keys receive, by layer and head, and what they would of attention spread evenly."""
    means = [row.means["group_mass"].value for row in rows if "group_mass" in row.means]
    if not means:
        return []
    return [
        KeyGroup(
            name=name,
            keys=100 * sum(float((of_S == kind).double().mean()) for of_S in shown.of_keys) / len(shown.of_keys),
            layers=[row.layer for row in rows],
            mass=[[round(x, 5) if isfinite(x) else None for x in mass_HK[:, kind].tolist()] for mass_HK in means],
        )
        for kind, name in enumerate(shown.groups)
        if name is not None
    ]
