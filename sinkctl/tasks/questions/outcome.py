"""Answered questions → their Result: scores by policy and group, and what they say in words."""

from collections.abc import Sequence

from sinkctl import __version__
from sinkctl.cache.policies import Bounded, Recompute, Snap
from sinkctl.model.recurrent import recurrent_cache
from sinkctl.result.numbers import percent
from sinkctl.result.questions import GroupScore, Mistake, PolicyAnswers, QuestionsDetail
from sinkctl.result.schema import Measurement, Result
from sinkctl.tasks.questions.asking import Answer, QuestionsRun
from sinkctl.tasks.stream.outcome import model_report, redistribution_notes

MISTAKES = 20  # kept, a policy


def result_of(run: QuestionsRun, answers: Sequence[Answer]) -> Result:
    """Everything the run found."""
    policies = [_scored(run, label, [a for a in answers if a.policy == label]) for label in run.lanes]
    layers, choices = [], dict(run.choices)
    for lane in run.lanes.values():
        layers += lane.decoder.layers
        choices |= lane.decoder.choices
    return Result(
        task="questions",
        sinkctl_version=__version__,
        recipe=run.recipe.model_dump(mode="json"),
        model=model_report(run.loaded, layers),
        choices=choices,
        seconds=run.seconds,
        complete=True,
        measurements=_measurements(run, policies),
        verdict=[_verdict(policy) for policy in policies],
        notes=_notes(run),
        questions=QuestionsDetail(
            source=run.settled.source,
            questions=run.asked,
            tokens=run.tokens,
            bos=run.settled.bos,
            chunk=run.recipe.chunk,
            keep=run.recipe.keep,
            policies=policies,
        ),
    )


def _scored(run: QuestionsRun, label: str, answers: list[Answer]) -> PolicyAnswers:
    lane = run.lanes[label]
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.back, []).append(answer)
    held, gone = ([a for a in answers if a.inside == inside] for inside in ("yes", "no"))
    wrong = [a for a in answers if not a.correct and a.inside != "no"]
    return PolicyAnswers(
        label=label,
        kind=lane.policy.kind,
        settings=lane.policy.model_dump(mode="json"),
        asked=len(answers),
        exact=_right(answers),
        inside_asked=len(held),
        inside_exact=_right(held),
        outside_asked=len(gone),
        outside_exact=_right(gone),
        cache_tokens=lane.policy.reach if isinstance(lane.policy, Bounded) else None,
        cache_bytes=lane.decoder.bytes_held(),
        groups=[_group(group, groups[group]) for group in sorted(groups, key=_order)],
        mistakes=[
            Mistake(
                place=a.place, question=a.question, expected=list(a.expected), given=a.given, tokens_back=a.tokens_back
            )
            for a in wrong[:MISTAKES]
        ],
    )


def _group(group: str, answers: list[Answer]) -> GroupScore:
    known = [a.tokens_back for a in answers if a.tokens_back is not None]
    inside = {a.inside for a in answers}
    return GroupScore(
        group=group,
        asked=len(answers),
        exact=_right(answers),
        inside=inside.pop() if len(inside) == 1 else "unknown" if inside == {"unknown"} else "partly",
        tokens_back=sum(known) / len(known) if known else None,
    )


def _order(group: str) -> tuple[int, float, str]:
    """Numbers by their value, then names, and last those without one."""
    try:
        return 0, float(group), ""
    except ValueError:
        return (1, 0.0, group) if group else (2, 0.0, "")


def _right(answers: Sequence[Answer]) -> int:
    return sum(answer.correct for answer in answers)


def _measurements(run: QuestionsRun, policies: list[PolicyAnswers]) -> list[Measurement]:
    unit = "share of questions"
    shares = [("exact_match", policies[0]), *((f"{policy.label}.exact_match", policy) for policy in policies)]
    found = [
        Measurement(name=name, samples=[policy.exact / policy.asked], unit=unit, better="higher")
        for name, policy in shares
    ]
    speed = run.asked / max(run.seconds, 1e-9)
    return [*found, Measurement(name="questions.per_s", samples=[speed], unit="questions/s", better="higher")]


def _verdict(policy: PolicyAnswers) -> str:
    if not policy.inside_asked and not policy.outside_asked:
        return f"{policy.label} answers {percent(100 * policy.exact / policy.asked)} of {_counted(policy.asked)}."
    left = "has left it" if policy.inside_asked else "has left its cache"
    parts = [
        f"{percent(100 * exact / asked)} of the {_counted(asked)} whose answer {where}"
        for exact, asked, where in (
            (policy.inside_exact, policy.inside_asked, "is still in its cache"),
            (policy.outside_exact, policy.outside_asked, left),
        )
        if asked
    ]
    return f"{policy.label} answers {' and '.join(parts)}."


def _counted(questions: int) -> str:
    return f"{questions:,} question{'' if questions == 1 else 's'}"


def _notes(run: QuestionsRun) -> list[str]:
    recipe, context = run.recipe, run.loaded.context
    notes = [*run.loaded.notes, run.settled.bos[0].upper() + run.settled.bos[1:] + ".", *run.special.notes()]
    stay = "stay in the stream" if recipe.keep else "leave the stream as it was"
    notes.append(f"Each text and question is tokenized by itself; questions and answers {stay}.")
    for policy in recipe.policies:
        if isinstance(policy, Snap):
            after = "" if recipe.keep else "; the stream itself is never cut, only what an answer sees"
            notes.append(f"{policy.label} holds all of the text until a question ends{after}.")
        notes += redistribution_notes(policy)
        if context is None or isinstance(policy, Recompute):
            continue
        reach = policy.reach if isinstance(policy, Bounded) else run.tokens
        if reach + 1 > context:
            notes.append(f"{policy.label} reaches position {reach:,}, past the model's context of {context}.")
    notes += [note for lane in run.lanes.values() for note in lane.decoder.notes]
    if recurrent_cache(run.loaded.model) is not None:
        notes.append("Recurrent layers may remember what has left the cache.")
    return notes
