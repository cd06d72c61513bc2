"""Questions in a stream: their format, the built-in set, the score, and what asking does to the stream."""

import gzip
import itertools
import json
import random
import re

import numpy as np
import pytest
import torch
from families import HYBRID, tiny
from lookup import KEYS, lookup

from sinkctl.cache.policies import Keep
from sinkctl.check import check
from sinkctl.cli.questions import run_questions
from sinkctl.errors import Interrupted, ModelError, TextError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.load import load as load_recipe
from sinkctl.recipe.load import validate
from sinkctl.recipe.schema import LineSettings
from sinkctl.recipe.shorthand import policy
from sinkctl.result.schema import Result
from sinkctl.tasks.questions import QuestionsRun, run
from sinkctl.tasks.questions.exact import first_line, is_exact
from sinkctl.tasks.questions.items import Question
from sinkctl.tasks.questions.lane import inside
from sinkctl.tasks.questions.lines import LineItems
from sinkctl.tasks.questions.recall import Recall
from sinkctl.tasks.questions.records import RecordItems


def recipe(policies=("4+60",), **settings):
    return validate({"task": "questions", "policies": [policy(p) for p in policies], **settings})


def records(path, *lines):
    """A .jsonl file of these records."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


BAD = {
    "{'text': 1}": "not JSON",
    "[1]": "a JSON list, not an object",
    '{"txt": "a"}': "neither a text nor a question (fields here: txt)",
    '{"text": 5}': "text is a JSON int",
    '{"question": "a?"}': "a question without an answer",
    '{"question": " ", "answer": "b"}': "an empty question",
    '{"text": "a", "answer": "b"}': "an answer without a question",
    '{"question": "a?", "answer": 7}': "answer is a JSON int; write a string, or a list of them, in quotes",
    '{"question": "a?", "answer": []}': "an empty answer",
    '{"question": "a?", "answer": ["b", " "]}': "an empty answer",
    '{"question": "a?", "answer": "b\\nc"}': "an answer of several lines",
    '{"question": "a?", "answer": "b", "back": [2]}': "back is a JSON list",
    '{"text": "\\ud800"}': "half a surrogate pair",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_record_is_named_with_its_file_and_line_once_it_is_reached(line, tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text(f'{{"text": "a"}}\n\n{line}\n')
    items = iter(RecordItems(str(path), "asked.jsonl"))
    assert next(items).text == "a"
    with pytest.raises(TextError, match=rf"^asked\.jsonl:3: {re.escape(BAD[line])}"):
        next(items)


def test_texts_and_questions_come_in_their_order_compressed_or_not(tmp_path):
    lines = [{"text": "a"}, {"text": "b", "question": "c?", "answer": ["d", " e "], "back": 2.5},
             {"question": "f?", "answer": "g", "back": "far", "id": 3}]  # fmt: skip
    path = records(tmp_path / "asked.jsonl", *lines)
    packed = tmp_path / "asked.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "asked.jsonl").read_bytes()))
    found = list(RecordItems(path, "x"))
    assert [(item.place, item.text) for item in found] == [("x:1", "a"), ("x:2", "b"), ("x:3", "")]
    assert [item.question for item in found] == [
        None, Question("c?", ("d", "e"), "2.5"), Question("f?", ("g",), "far")
    ]  # fmt: skip
    assert list(RecordItems(str(packed), "x")) == found


def test_the_built_in_lines_are_asked_about_at_the_distances_named():
    items = list(LineItems(LineSettings(count=2000, every=7, back=(20, 3, 0), digits=4)))
    lines = [item.text for item in items[1:]]
    parsed = [re.fullmatch(r"line ([a-z]+-[a-z]+): REGISTER_CONTENT is <([1-9]\d{3})>\n", line) for line in lines]
    assert all(parsed)
    assert len({line[1] for line in parsed}) == 2000  # no label twice
    asked = {number: item.question for number, item in enumerate(items) if item.question}
    due = {7 * (i + 1): (20, 3, 0)[i % 3] for i in range(2000 // 7)}
    assert list(asked) == [number for number, back in due.items() if back < number]
    for number, question in asked.items():
        label, value = parsed[number - due[number] - 1].groups()
        assert question == Question(
            f"Query: line {label}: REGISTER_CONTENT is", (f"<{value}>", value), str(due[number]), due[number]
        )


def test_the_built_in_lines_are_drawn_from_their_seed_and_made_as_they_are_read():
    def first(seed: int) -> list:
        return list(itertools.islice(LineItems(LineSettings(count=10**9, seed=seed)), 100))

    assert first(0) == first(0)
    assert not {item.text for item in first(0)[1:]} & {item.text for item in first(1)[1:]}
    assert first(0)[1].text.count("-") == 4  # five words: that many labels are needed


@pytest.mark.parametrize(
    ("given", "accepted", "right"),
    [
        (" 10536>\nQuery", ["10536"], True),
        ("10536", ["10536"], True),
        ("105361", ["10536"], False),
        ("10536a", ["10536"], False),
        ("it is 10536", ["10536"], False),
        ("\n\n <10536>", ["<10536>", "10536"], True),
        ("no\n10536", ["10536"], False),
        ("Paris, France", ["London", "Paris"], True),
        ("Parisian", ["Paris"], False),
        ("paris", ["Paris"], False),
        ("", ["x"], False),
    ],
)
def test_an_answer_is_right_where_its_first_line_starts_with_an_accepted_one(given, accepted, right):
    assert is_exact(first_line(given), accepted) is right


def test_what_the_cache_holds_is_what_the_rule_says():
    draw = random.Random(0)
    for _ in range(500):
        keep, asked = Keep(draw.randint(0, 5), draw.randint(1, 12)), draw.randint(5, 40)
        first = draw.randrange(asked)
        end = draw.randint(first + 1, min(asked, first + 4))
        seen = {t for t in range(asked + 1) if t < keep.sinks or t >= asked - keep.window}
        share = len(seen & set(range(first, end))) / (end - first)
        assert inside(keep, first, end, asked) == {0: "no", 1: "yes"}.get(share, "partly")


def test_an_answer_is_found_where_it_last_occurs_as_a_word():
    recall = Recall(1)
    for place, text in enumerate(["seven 77 birds", "77 and 7 and 77, and 778", "no 779"]):
        words = list(re.finditer(r"\S+", text))
        recall.add(text, np.array([word.start() for word in words]), (100 * place, 1000 * place))
    assert recall.find(Question("?", ("77",))) == [(104, 105), (1004, 1005)]
    assert recall.find(Question("?", ("7", "seven"))) == [(102, 103), (1002, 1003)]
    assert recall.find(Question("?", ("77",), source=2)) == [(1, 2), (1, 2)]
    assert recall.find(Question("?", ("778", "9"), source=0)) is None


def keys_and_questions(tmp_path) -> str:
    """A key a line, each once; then about one of the first two, about 2 lines back, and about 12 lines back."""
    lines, values = [], [f"v{i}" for i in random.Random(0).sample(range(KEYS), KEYS)]
    for key in range(KEYS):
        lines.append({"text": f"k{key}={values[key]} "})
        if key >= 20:
            lines += [
                {"question": f"k{about}?", "answer": values[about], "back": back}
                for back, about in (("start", key % 2), (2, key - 2), (12, key - 12))
            ]
    return records(tmp_path / "keys.jsonl", *lines)


def test_a_model_that_can_answer_is_right_inside_its_cache_and_wrong_outside(tmp_path):
    policies = ("4+8", "dense", "recompute:4+8", "snap:4+8", "random:4+8")
    outcome = run(recipe(policies, questions=keys_and_questions(tmp_path), bos="always", chunk=5), lookup())
    kept, dense, again, snap, chance = outcome.result.questions.policies
    assert kept.asked == dense.asked == again.asked == 3 * (KEYS - 20)
    assert [(g.group, g.exact / g.asked, g.inside) for g in kept.groups] == [
        ("2", 1.0, "yes"), ("12", 0.0, "no"), ("start", 1.0, "yes")  # the start is among the sinks
    ]  # fmt: skip
    assert dense.exact == dense.inside_asked == dense.asked
    assert snap.exact == snap.asked > chance.exact, "the question finds what has to be kept"
    assert [(g.exact, g.inside) for g in again.groups] == [(KEYS - 20, "yes"), (0, "no"), (0, "no")]
    assert [g.tokens_back for g in kept.groups[:2]] == [2, 12]
    assert {answer.given for answer in outcome.answers if answer.inside == "no"} == {"none"}
    assert outcome.result.verdict[0] == (
        "4+8 answers 100.0 % of the 22 questions whose answer is still in its cache"
        " and 0.0 % of the 11 questions whose answer has left it."
    )
    assert outcome.result.measurement("4+8.exact_match").value == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["demo", "qwen3_next"])
def test_questions_aside_leave_the_stream_as_it_was(demo, name):
    if name in HYBRID:
        model = tiny(HYBRID[name][0], HYBRID[name][1] | {"vocab_size": 4096}, torch.float32)
        demo = LoadedModel(model, demo.tokenizer, name, "in memory")
    few = recipe(lines={"count": 40, "every": 20, "back": [1]}, chunk=64, bos="always")
    many = few.model_copy(update={"lines": few.lines.model_copy(update={"every": 4})})
    runs = [QuestionsRun(built, demo) for built in (few, many)]
    few, many = ([answer for answers in one for answer in answers] for one in runs)
    shared = [answer for answer in many if answer.place in {a.place for a in few}]
    assert [(a.place, a.given, a.tokens_back) for a in shared] == [(a.place, a.given, a.tokens_back) for a in few]
    assert (len(many), len(few)) == (10, 2)
    states = [one.lanes["4+60"].decoder.state() for one in runs]
    assert states[0][0]["seen"] == states[1][0]["seen"] == [runs[0].tokens + 1]
    for part, tensor in states[0][1].items():  # blocks are cut elsewhere, so not to the bit
        torch.testing.assert_close(tensor, states[1][1][part], rtol=0, atol=1e-3)


def test_questions_that_are_kept_join_the_stream_with_their_answers(demo):
    built = recipe(("4+60", "dense"), lines={"count": 12, "every": 4, "back": [1]}, keep=True, answer_tokens=5, chunk=9)
    asking = QuestionsRun(built, demo)
    answers = [answer for some in asking for answer in some]
    asked = sum(len(demo.tokenizer(a.question, add_special_tokens=False).input_ids) for a in answers) // 2
    for lane in asking.lanes.values():
        assert lane.place >= 1 + asking.tokens + asked + 3
        assert lane.place == lane.decoder.cache.seen[0] + sum(map(len, lane._pending))
    answered = demo.tokenizer.decode(asking.lanes["dense"]._pending[-1])
    assert answered.endswith("\n")


def test_an_answer_longer_than_the_room_gets_its_own_length(demo, tmp_path):
    text = "the quick brown fox jumps over the lazy dog and then over the moon"
    path = records(tmp_path / "asked.jsonl", {"text": text}, {"question": "What?", "answer": [text, "x"]})
    asking = QuestionsRun(recipe(questions=path, answer_tokens=2), demo)
    length = len(demo.tokenizer(text, add_special_tokens=False).input_ids)
    assert asking._room(Question("What?", (text, "x"))) == length + 2
    assert asking._room(Question("What?", ("x",))) == 2


def test_a_run_is_kept_whole_and_runs_again(demo, tmp_path):
    out = tmp_path / "out"
    built = recipe(("4+60", "0+64"), lines={"count": 30, "back": [2]})
    outcome = run(built, demo, output=out)
    assert Result.model_validate_json((out / "result.json").read_text()) == outcome.result
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [(a["index"], a["policy"]) for a in answers] == [(i, p) for i in range(3) for p in ("4+60", "0+64")]
    assert set(answers[0]) >= {"index", "back", "policy", "expected", "given", "correct", "tokens_back"}
    again = run(load_recipe(out / "recipe.yaml"), demo)
    assert again.answers == outcome.answers
    assert sorted(p.name for p in out.iterdir()) == ["answers.jsonl", "env.json", "recipe.yaml", "result.json"]


def test_a_stopped_run_says_that_it_cannot_go_on(demo, tmp_path):
    with pytest.raises(Interrupted, match=r"stopped after 0 questions; .*cannot be resumed"):
        run(recipe(lines={"count": 30}), demo, output=tmp_path / "out", stop=lambda: True)
    assert not (tmp_path / "out/result.json").exists()
    assert not (tmp_path / "out/answers.jsonl").exists()


def test_the_limit_ends_the_text_and_the_questions(demo):
    limited = run(recipe(lines={"count": 1000, "back": [2]}, limit=700), demo).result.questions
    lengths = [len(demo.tokenizer(i.text, add_special_tokens=False).input_ids) for i in LineItems(LineSettings())]
    within = [total for total in itertools.accumulate(lengths) if total <= 700]
    assert limited.tokens == within[-1]
    assert limited.questions == (len(within) - 1) // 10 == 2  # the words before line 1 are no line


def test_what_cannot_be_asked_is_refused_in_one_line(demo, tmp_path):
    first = records(tmp_path / "first.jsonl", {"question": "a?", "answer": "b"}, {"text": "c"})
    none = records(tmp_path / "none.jsonl", {"text": "c"})
    plain = tmp_path / "plain.txt"
    plain.write_text("text")
    for error, words, settings in [
        (TextError, "first.jsonl:1: a question before any text", {"questions": first}),
        (TextError, "none.jsonl: there is no question", {"questions": none}),
        (TextError, "no such file", {"questions": str(tmp_path / "missing.jsonl")}),
        (UsageError, "no .jsonl file", {"questions": str(plain)}),
        (UsageError, "never reach 50 lines back", {"lines": {"count": 50, "back": [60, 50]}}),
        (UsageError, "two policies are the same", {"policies": ["4+60", "4+60"]}),
        (UsageError, "a pipe is read only once", {"questions": "-", "policies": ["dense"]}),
        (UsageError, "did you mean 'exact_match'", {"fail_on": ["exact_mtch>=0.5"]}),
    ]:
        with pytest.raises(error, match=re.escape(words)):
            run(recipe(**settings), demo)
    with pytest.raises(ModelError, match="has no BOS"):
        run(recipe(bos="always"), _without_bos())


def _without_bos():
    loaded = lookup()
    loaded.tokenizer.bos_token = loaded.model.config.bos_token_id = None
    return loaded


def test_the_command_keeps_and_prints_what_was_found(tmp_path, capsys):
    path = records(tmp_path / "asked.jsonl", {"text": "It rained. "}, {"question": "It", "answer": "rained"})
    built, out = recipe(questions=path, model={"device": "cpu"}, fail_on=["exact_match>=0"]), tmp_path / "out"
    said = dict(as_json=True, quiet=True, dry_run=False)
    run_questions(built, output=out, **said)
    printed = Result.model_validate_json(capsys.readouterr().out)
    assert printed == Result.model_validate_json((out / "result.json").read_text())
    assert printed.questions.questions == 1
    assert "It rained" not in (out / "report.html").read_text()  # the text itself is not in the report
    run_questions(built, output=None, **said | {"dry_run": True})
    assert json.loads(capsys.readouterr().out) == printed.recipe
    with pytest.raises(UsageError, match="cannot be resumed"):
        check(built, output=out, resume=True)
