"""Scores of questions as text: policies against groups of questions, marked where the answer had left the cache."""

from sinkctl.report.parts import Section, Table, table_of, transposed
from sinkctl.result.numbers import NOTHING, count, part
from sinkctl.result.questions import GroupScore, Mistake, PolicyAnswers, QuestionsDetail

GONE, PARTLY = " †", " (†)"
WIDEST = 6  # groups in columns; more of them become rows
EXAMPLES = 3


def answer_table(detail: QuestionsDetail) -> Table:
    """Share of exact answers: a row a policy and a column a group, or the other way round where groups are many."""
    groups = detail.policies[0].groups
    groups = [] if [score.group for score in groups] == [""] else groups
    many = len(groups) > WIDEST
    columns = [("policy", lambda policy: policy.label), ("all" if many else "exact match", _share)]
    columns += [(_heading(score), lambda policy, at=at: _share(policy.groups[at])) for at, score in enumerate(groups)]
    inside = {score.inside for policy in detail.policies for score in policy.groups} if groups else set()
    which = "rows" if many else "columns"
    table = table_of(
        detail.policies,
        columns,
        groups and f"{which}: back, and in brackets the tokens between answer and question",
        "no" in inside and "† the answer had left the cache",
        "partly" in inside and "(†) some of the answers had, or part of them",
    )
    return transposed(table, "back") if many else table


def questions_line(detail: QuestionsDetail) -> str:
    """20,000 tokens, 100 questions from asked.jsonl, each asked aside."""
    asked = "asked in the stream" if detail.keep else "each asked aside"
    return f"{count(detail.tokens)} tokens, {count(detail.questions)} questions from {detail.source}, {asked}"


def mistakes(detail: QuestionsDetail) -> tuple[str, list[str]]:
    """A few wrong answers of the first policy that has any, although the answers had not left its cache, titled."""
    policy = next((policy for policy in detail.policies if policy.mistakes), None)
    if policy is None:
        return "", []
    title = f"Wrong under {policy.label}, although the answer was there"
    return title, list(map(_mistake, policy.mistakes[:EXAMPLES]))


def sections(detail: QuestionsDetail) -> list[Section]:
    title, wrong = mistakes(detail)
    answers = [("plain", [questions_line(detail)]), ("table", answer_table(detail))]
    return [Section("Answers", answers), Section(title, [("list", wrong)])]


def _mistake(mistake: Mistake) -> str:
    """asked.jsonl:12: “…” instead of “…”."""
    return f"{mistake.place}: “{mistake.given}” instead of “{mistake.expected[0]}”"


def _heading(score: GroupScore) -> str:
    """The group, and its distance in tokens, as in the paper's table: 20 (460)."""
    name = score.group or "others"
    return name if score.tokens_back is None else f"{name} ({count(round(score.tokens_back))})"


def _share(score: GroupScore | PolicyAnswers) -> str:
    mark = {"no": GONE, "partly": PARTLY}.get(getattr(score, "inside", ""), "")
    return f"{part(score.exact / score.asked)}{mark}" if score.asked else NOTHING
