"""Scores of questions as text: policies against groups of questions, marked where the answer had left the cache."""

from sinkctl.report.summary import ScoreTable
from sinkctl.result.numbers import NOTHING, count, percent
from sinkctl.result.questions import GroupScore, Mistake, PolicyAnswers, QuestionsDetail

GONE, PARTLY = " †", " (†)"
WIDEST = 6  # groups in columns; more of them become rows
EXAMPLES = 3


def answer_table(detail: QuestionsDetail) -> ScoreTable:
    """Share of exact answers: a row a policy and a column a group, or the other way round where groups are many."""
    groups = [score.group for score in detail.policies[0].groups]
    single = groups == [""]
    rows = [["exact match", *([] if single else map(_heading, detail.policies[0].groups))]]
    for policy in detail.policies:
        rows.append([_share(policy), *([] if single else map(_share, policy.groups))])
    labels = ["policy", *(policy.label for policy in detail.policies)]
    table = [[label, *row] for label, row in zip(labels, rows, strict=True)]
    if len(groups) > WIDEST:
        table = [list(column) for column in zip(*table, strict=True)]
        table[0][0] = "back"
        table[1][0] = "all"
    return ScoreTable(table[0], table[1:], set(), _legend(detail, single))


def questions_line(detail: QuestionsDetail) -> str:
    """20,000 tokens, 100 questions from asked.jsonl, each asked aside."""
    asked = "asked in the stream" if detail.keep else "each asked aside"
    return f"{count(detail.tokens)} tokens, {count(detail.questions)} questions from {detail.source}, {asked}"


def examples(detail: QuestionsDetail) -> list[tuple[str, Mistake]]:
    """A few wrong answers of the first policy that has any, although the answers had not left its cache."""
    policy = next((policy for policy in detail.policies if policy.mistakes), None)
    return [] if policy is None else [(policy.label, mistake) for mistake in policy.mistakes[:EXAMPLES]]


def mistake_line(mistake: Mistake) -> str:
    """asked.jsonl:12: "…" instead of "…"."""
    return f"{mistake.place}: “{mistake.given}” instead of “{mistake.expected[0]}”"


def _heading(score: GroupScore) -> str:
    """The group, and its distance in tokens, as in the paper's table: 20 (460)."""
    name = score.group or "others"
    return name if score.tokens_back is None else f"{name} ({count(round(score.tokens_back))})"


def _share(score: GroupScore | PolicyAnswers) -> str:
    mark = {"no": GONE, "partly": PARTLY}.get(getattr(score, "inside", ""), "")
    return f"{percent(100 * score.exact / score.asked)}{mark}" if score.asked else NOTHING


def _legend(detail: QuestionsDetail, single: bool) -> list[str]:
    said = [] if single else ["columns: back, and in brackets the tokens between answer and question"]
    if len(detail.policies[0].groups) > WIDEST:
        said = ["rows: back, and in brackets the tokens between answer and question"]
    shown = {score.inside for policy in detail.policies for score in policy.groups} if not single else set()
    if "no" in shown:
        said.append("† the answer had left the cache")
    if "partly" in shown:
        said.append("(†) some of the answers had, or part of them")
    return said
