"""Trigger candidates as a table."""

from sinkctl.report.summary import ScoreTable
from sinkctl.result.numbers import count, figures
from sinkctl.result.suspects import SuspectReport
from sinkctl.result.words import quoted

MOST = 20


def suspect_table(report: SuspectReport) -> ScoreTable:
    """The most suspect candidates, one a row."""
    rows = [
        [quoted(one.text), "ALARM" if one.alarm else "no", figures(one.score), figures(one.limit), f"{one.z:.1f}",
         count(one.tokens), one.sign]
        for one in report.suspects[:MOST]
    ]  # fmt: skip
    legend = [
        f"put {report.place}, into {count(report.samples)} samples of {count(report.length)} tokens; score: root mean "
        f"square over layers of z-scores among {count(report.random)} random candidates of as many tokens, of the sign "
        f"where it is largest; alarm: above the largest of theirs, times {report.margin:g}; z: of the score"
    ]
    legend += (
        [f"{count(report.candidates - MOST)} less suspect ones are in result.json"] if report.candidates > MOST else []
    )
    return ScoreTable(
        ["candidate", "alarm", "score", "limit", "z", "tokens", "sign"], rows, set(), legend, frozenset({0, 1, 6})
    )
