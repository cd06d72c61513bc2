"""What a page shows of a result, before it is HTML: sections of tables, pictures, heatmaps and words."""

from typing import Any, NamedTuple

from sinkctl.report.benched import SETTINGS, case_rows, case_table, change_table, changes_title, fit_table
from sinkctl.report.benched import facts as benched_facts
from sinkctl.report.benched_pictures import share_bars, size_picture
from sinkctl.report.converted import (
    calibration_lines,
    checkpoint_table,
    converted_facts,
    mechanism_words,
    rounded_table,
    start_table,
    stored_line,
    stream_bars,
    stream_table,
)
from sinkctl.report.curves import memory_picture, perplexity_picture
from sinkctl.report.generated import cache_line, row_line
from sinkctl.report.measured import columns_of
from sinkctl.report.quality import quality_picture, quality_table, retrieval_table
from sinkctl.report.questions import answer_table, examples, mistake_line, questions_line
from sinkctl.report.settings import settings_table
from sinkctl.report.startup import startup_table
from sinkctl.report.summary import ScoreTable, passage_words, score_table, tokens_line
from sinkctl.report.trained import loss_picture, probe_pictures, training_facts
from sinkctl.result.bench import BenchDetail
from sinkctl.result.convert import ConvertDetail
from sinkctl.result.generate import GenerateDetail
from sinkctl.result.numbers import count, known, memory, percent
from sinkctl.result.questions import QuestionsDetail
from sinkctl.result.schema import Result
from sinkctl.result.stream import Passage, StreamDetail

Part = tuple[str, Any]  # what templates/page.html calls it, and the thing; one that is empty is left out


class Section(NamedTuple):
    """Parts under a title; folded, they open on demand."""

    title: str
    parts: list[Part]
    fold: bool = False


def sections(result: Result) -> list[Section]:
    """What the result's task shows, and how it was run."""
    shown: list[Section] = []
    if result.stream is not None:
        shown += _stream(result.stream)
    if result.generate is not None:
        shown += _generated(result.generate)
    if result.questions is not None:
        shown += _questions(result.questions)
    if result.measure is not None:
        from sinkctl.report.measured_page import measured

        shown += measured(result.measure)
    if result.convert is not None:
        shown += _converted(result.convert)
    if result.registers is not None:
        from sinkctl.report.registered import tables

        shown += [Section(title, [table(each)]) for title, each in tables(result.registers)]
    if result.bench is not None:
        shown += _benched(result.bench)
    return [*shown, Section("How it was run", [("facts", _how(result))], fold=True)]


def table(scores: ScoreTable | None) -> Part:
    """A table, where there is anything in it."""
    return "table", scores if scores is not None and (scores.rows or scores.legend) else None


def _stream(stream: StreamDetail) -> list[Section]:
    curve = perplexity_picture(stream.policies, "the text" if stream.texts is None else "each text")
    label = stream.policies[0].label if stream.policies else ""
    under = [f"Highest mean NLL under {label}; the darker a token, the more it surprised."] if stream.passages else []
    passages = [(f"{p.file}:{p.line}", passage_words(p), shaded(p)) for p in stream.passages]
    return [
        Section("Scores", [table(score_table(stream.policies)), ("plots", [curve] if curve else [])]),
        Section("Most surprising passages", [("quiet", under), ("passages", passages)]),
        Section("Memory", [("plots", _memory(stream.memory, "Memory while the text was read"))], fold=True),
    ]


def shaded(passage: Passage) -> list[tuple[int, str]]:
    """Pieces of the text with a shade each, 0 to 9 and more nats; neighbours of one shade together."""
    pieces: list[tuple[int, str]] = []
    for piece, nll in passage.pieces or [(passage.text, 0.0)]:
        shade = min(9, max(0, int(nll))) if known(nll) else 0
        if pieces and pieces[-1][0] == shade:
            pieces[-1] = shade, pieces[-1][1] + piece
        else:
            pieces.append((shade, piece))
    return pieces


def _generated(detail: GenerateDetail) -> list[Section]:
    rows = [Section(row_line(number, row), [("pre", row.text)]) for number, row in enumerate(detail.rows, 1)]
    return [
        Section("Text", [("plain", [cache_line(detail)]), *(("section", row) for row in rows)]),
        Section("Memory", [("plots", _memory(detail.memory, "Memory while the text was generated"))], fold=True),
    ]


def _memory(samples: list, title: str) -> list:
    return [memory_picture(samples, title)] if samples else []


def _questions(questions: QuestionsDetail) -> list[Section]:
    wrong = examples(questions)
    title = f"Wrong under {wrong[0][0]}, although the answer was there" if wrong else ""
    return [
        Section("Answers", [("plain", [questions_line(questions)]), table(answer_table(questions))]),
        Section(title, [("list", [mistake_line(mistake) for _, mistake in wrong])]),
    ]


def _converted(detail: ConvertDetail) -> list[Section]:
    said = f"The checkpoint was given {mechanism_words(detail)}; {stored_line(detail)}."
    found = stream_table(detail)
    key_first = [0, *range(3, len(found.columns)), 1, 2]  # a phone shows two columns
    streams = [("plain", [said]), table(columns_of(found, key_first))]
    shown = [
        Section("Streams", [*streams, ("bars", stream_bars(detail) if detail.streams else None)]),
        Section("Keys and values in few bits", [table(rounded_table(detail))]),
        Section("Checkpoints", [table(checkpoint_table(detail))]),
    ]
    if (training := detail.training) is not None:
        losses = loss_picture(training)
        pictures = [("plots", [losses] if losses else []), ("plots", probe_pictures(training))]
        shown.append(Section("Training", [("facts", training_facts(training, detail.mechanism)), *pictures]))
    if detail.calibration is not None:
        words = [("plain", [" ".join(calibration_lines(detail.calibration))]), table(start_table(detail.calibration))]
        shown.append(Section("Calibration", words, fold=True))
    return [*shown, Section("Files", [("facts", [[name, memory(size)] for name, size in detail.files.items()])], True)]


def _benched(detail: BenchDetail) -> list[Section]:
    shown = [Section(changes_title(detail), [table(change_table(detail.changes) if detail.changes else None)])]
    for title, rows in case_rows(detail):
        picture = size_picture(title, rows)
        drawn = [("plots", [picture] if picture else []), ("bars", share_bars(title, rows))]
        shown.append(Section(title, [table(case_table(rows, detail)), *drawn]))
    quality = quality_picture(detail)
    return [
        *shown,
        Section("Quality", [table(quality_table(detail)), ("plots", [quality] if quality else [])]),
        Section("Retrieval", [table(retrieval_table(detail))]),
        Section("Startup", [table(startup_table(detail))]),
        Section("Growth", [table(fit_table(detail.fits) if detail.fits else None)]),
        Section(SETTINGS, [table(settings_table(detail))]),
    ]


def _how(result: Result) -> list[list[str]]:
    facts: list[list[str]] = []
    if (stream := result.stream) is not None:
        facts = [["text", tokens_line(stream)], ["BOS", stream.bos], ["forward pass", f"{count(stream.chunk)} tokens"]]
        if stream.sink_rate is not None:
            rate = percent(100 * stream.sink_rate)
            facts.append(["sink rate", f"{rate} of heads give the first token more than 0.3"])
    if result.generate is not None:
        facts = [["BOS", result.generate.bos]]
    if result.questions is not None:
        facts = [["BOS", result.questions.bos], ["forward pass", f"{count(result.questions.chunk)} tokens"]]
    if result.measure is not None:
        from sinkctl.report.measured_page import measured_facts

        facts = measured_facts(result.measure)
    if result.convert is not None:
        facts = converted_facts(result.convert)
    if result.bench is not None:
        facts = benched_facts(result.bench)
    return facts if result.model is None else [*facts, ["model fingerprint", result.model.fingerprint]]
