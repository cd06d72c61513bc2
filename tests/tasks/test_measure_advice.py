"""What to do, by what was measured: a command that is named runs, and what is not sure is not said."""

import re

import pytest

from sinkctl.recipe.shorthand import policy
from sinkctl.result.measure import SCORED, CostLine, InputScore, SinkShare
from sinkctl.tasks.measure.advice import advice


def shown(percent: float, bos: bool) -> InputScore:
    return InputScore(
        name="natural", kind="natural", bos=bos, samples=20, length=64, first_tokens=["<s>"], layers=[], heads=None,
        sinks=[SinkShare(epsilon=0.3, key=0, percent=percent)], classes={}, found=[], queries=[], surface=None,
        balance_error=0.0, alpha_max=1.0, massive_layers=[], seconds=1.0,
    )  # fmt: skip


def line(name: str, cost: float, error: float, **settings) -> CostLine:
    return CostLine(name=name, what="", tokens=1000, perplexity=10 * (1 + cost), baseline=10.0, error=error, **settings)


# (Sink_1 with BOS, without it, (cost of a stream without first tokens, its error), the same of the first key hidden
# from the scored queries) → the beginning of what is said
CASES = [
    ((75.0, 0.0, (0.25, 0.02), (0.27, 0.04)), "Put BOS in front of every text"),
    ((63.0, 73.0, (0.63, 0.03), (2.49, 0.36)), "Keep the first tokens in the cache whatever they are"),
    ((63.0, None, (0.63, 0.03), (2.49, 0.36)), "Keep BOS in the cache"),
    ((0.0, 0.0, (0.001, 0.001), (0.001, 0.001)), "A plain window is safe"),
    (
        (0.0, 0.0, (0.001, 0.02), (0.001, 0.001)),
        "Keep the first tokens in the cache, as sinkctl stream does by",
    ),
    ((60.0, 60.0, (0.001, 0.001), (0.001, 0.001)), "Heads park attention there"),
    ((60.0, 60.0, (0.001, 0.001), (0.3, 0.1)), "A stream does without the first tokens, yet"),
    ((60.0, 60.0, (0.001, 0.001), (0.0, 0.05)), "Keep the first tokens in the cache, as sinkctl stream does by"),
    ((60.0, 60.0, None, (0.3, 0.1)), "Keep the first tokens in the cache, and in full precision"),
    ((60.0, 60.0, None, (0.0, 0.0)), "Keep the first tokens in the cache, as sinkctl stream does by itself, until"),
    ((0.0, 0.0, None, None), "What evicting the first tokens costs was not measured"),
]


@pytest.mark.parametrize(("measured", "begins"), CASES)
def test_advice_goes_by_costs_as_far_as_they_are_sure(measured, begins):
    rate, without, streamed, formed = measured
    other = None if without is None else shown(without, bos=False)
    costs = [] if formed is None else [line("first key hidden", *formed, hidden_from=SCORED)]
    costs += [] if streamed is None else [line("0+W instead of 4+W", *streamed)]
    (said,) = advice("decoder", shown(rate, bos=True), other, costs)
    assert said.startswith(begins)
    for name in re.findall(r"sinkctl stream -p ([^\s:,;.]+)", said):
        assert policy(name)
