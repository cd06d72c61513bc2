"""What reports show of a result, before anything draws it, one line a task: sections, tables, figures and facts."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sinkctl.report import benched, converted, measured_page, questions, registered
from sinkctl.report import headline as headlines
from sinkctl.report.curves import memory_picture, perplexity_picture
from sinkctl.report.headline import Figure
from sinkctl.report.parts import Part, Section, Table, plots
from sinkctl.report.summary import measurement_table, passage_words, score_table, tokens_line
from sinkctl.result.generate import GenerateDetail
from sinkctl.result.numbers import count, known, memory, percent, quantity
from sinkctl.result.schema import Result
from sinkctl.result.stream import Passage, StreamDetail

SPEEDS = {"stream.tokens_per_s": "speed", "generate.ms_per_token": "a step", "questions.per_s": "speed",
          "stream.peak_memory": "peak memory", "generate.peak_memory": "peak memory"}  # fmt: skip


class Shown(NamedTuple):
    """Of a task: on a page, on a terminal so many cells wide, at the head of the page, and how it was run."""

    sections: Callable[[Any], list[Section]]
    tables: Callable[[Any, int], list[tuple[str, Table]]]
    figures: Callable[[Any], list[Figure]]
    facts: Callable[[Any], list[list[str]]]


def sections(result: Result) -> list[Section]:
    """What the result's task shows, and how it was run."""
    shown, detail = _of(result)
    facts = shown.facts(detail) + [[f"setting: {name}", said] for name, said in result.settings.items()]
    facts += [] if result.model is None else [["model fingerprint", result.model.fingerprint]]
    return [*shown.sections(detail), Section("How it was run", [("facts", facts)], fold=True)]


def tables(result: Result, width: int) -> list[tuple[str, Table]]:
    """The tables that a terminal shows, `width` cells wide, under their titles."""
    shown, detail = _of(result)
    return shown.tables(detail, width)


def headline(result: Result) -> list[Figure]:
    """At most three figures."""
    shown, detail = _of(result)
    speeds = [(result.measurement(name), words) for name, words in SPEEDS.items()]
    said = [(quantity(m.value, m.unit), words) for m, words in speeds if m is not None and m.samples]
    return [*shown.figures(detail), *said][:3]


def _stream(stream: StreamDetail) -> list[Section]:
    curve = perplexity_picture(stream.policies, "the text" if stream.texts is None else "each text")
    label = stream.policies[0].label if stream.policies else ""
    under = [f"Highest mean NLL under {label}; the darker a token, the more it surprised."] if stream.passages else []
    passages = [(f"{p.file}:{p.line}", passage_words(p), shaded(p)) for p in stream.passages]
    grown = memory_picture(stream.memory, "Memory while the text was read")
    return [
        Section("Scores", [("table", score_table(stream.policies)), plots(curve)]),
        Section("Most surprising passages", [("quiet", under), ("passages", passages)]),
        Section("Memory", [plots(grown)], fold=True),
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
    parts: list[Part] = [("plain", [cache_line(detail)])]
    for n, row in enumerate(detail.rows, 1):
        title = f"Prompt {n}: {count(row.prompt_tokens)} tokens, and {count(row.tokens)} generated ({row.ended})"
        parts.append(("section", Section(title, [("pre", row.text)])))
    grown = memory_picture(detail.memory, "Memory while the text was generated")
    return [Section("Text", parts), Section("Memory", [plots(grown)], fold=True)]


def cache_line(detail: GenerateDetail) -> str:
    """4+252: a cache of 256 tokens, 1.5 MiB for 16 rows; greedy."""
    size = "that grows with the text" if detail.cache_tokens is None else f"of {count(detail.cache_tokens)} tokens"
    rows = f" for {len(detail.rows)} rows" if len(detail.rows) > 1 else ""
    return f"{detail.policy}: a cache {size}, {memory(detail.cache_bytes)}{rows}; {detail.sampling}"


def _bos(detail: Any) -> list[list[str]]:
    chunk = getattr(detail, "chunk", None)
    return [["BOS", detail.bos], *([["forward pass", f"{count(chunk)} tokens"]] if chunk else [])]


def _stream_facts(stream: StreamDetail) -> list[list[str]]:
    said = f"{percent(100 * (stream.sink_rate or 0))} of heads give the first token more than 0.3"
    sinks = [] if stream.sink_rate is None else [["sink rate", said]]
    return [["text", tokens_line(stream)], *_bos(stream), *sinks]


SHOWN = {
    "stream": Shown(_stream, lambda detail, _: [("", score_table(detail.policies))], headlines.stream, _stream_facts),
    "generate": Shown(_generated, lambda *_: [], headlines.generated, _bos),
    "questions": Shown(questions.sections, lambda d, _: [("", questions.answer_table(d))], headlines.answered, _bos),
    "measure": Shown(measured_page.sections, measured_page.tables, headlines.measured, measured_page.facts),
    "convert": Shown(
        converted.sections, lambda detail, _: converted.tables(detail), headlines.converted, converted.facts
    ),
    "registers": Shown(registered.sections, lambda d, _: registered.tables(d), headlines.registers, lambda _: []),
    "bench": Shown(benched.sections, lambda detail, _: benched.tables(detail), headlines.benched, benched.facts),
}


def _of(result: Result) -> tuple[Shown, Any]:
    """What shows the result's detail, and that; a result without one has its measurements alone."""
    bare = Shown(lambda _: [], lambda found, _: [("", measurement_table(found))], lambda _: [], lambda _: [])
    found = ((SHOWN[name], getattr(result, name)) for name in SHOWN)
    return next((pair for pair in found if pair[1] is not None), (bare, result.measurements))
