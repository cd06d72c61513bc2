"""What a page shows of a result, before it is HTML: sections of tables, pictures, heatmaps and words."""

from sinkctl.report import benched, converted, questions
from sinkctl.report.curves import memory_picture, perplexity_picture
from sinkctl.report.parts import Part, Section, Table, plots
from sinkctl.report.registered import tables as register_tables
from sinkctl.report.summary import measurement_table, passage_words, score_table, tokens_line
from sinkctl.result.generate import GenerateDetail
from sinkctl.result.numbers import count, known, memory, part
from sinkctl.result.schema import Result
from sinkctl.result.stream import Passage, StreamDetail


def sections(result: Result) -> list[Section]:
    """What the result's task shows, and how it was run."""
    from sinkctl.report import measured_page

    builders = {
        "stream": _stream,
        "generate": _generated,
        "questions": questions.sections,
        "measure": measured_page.sections,
        "convert": converted.sections,
        "registers": lambda found: [Section(title, [("table", each)]) for title, each in register_tables(found)],
        "bench": benched.sections,
    }
    found = [(build, getattr(result, name)) for name, build in builders.items()]
    shown = [section for build, detail in found if detail is not None for section in build(detail)]
    return [*shown, Section("How it was run", [("facts", _how(result))], fold=True)]


def tables(result: Result, width: int) -> list[tuple[str, Table]]:
    """The tables that a terminal shows, `width` cells wide, under their titles."""
    from sinkctl.report import measured_page

    builders = {
        "stream": lambda detail: [("", score_table(detail.policies))],
        "generate": lambda _: [],
        "questions": lambda detail: [("", questions.answer_table(detail))],
        "measure": lambda detail: measured_page.tables(detail, width),
        "convert": converted.tables,
        "registers": register_tables,
        "bench": benched.tables,
    }
    found = [(build, getattr(result, name)) for name, build in builders.items()]
    shown = [build(detail) for build, detail in found if detail is not None]
    return shown[0] if shown else [("", measurement_table(result.measurements))]


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


def _how(result: Result) -> list[list[str]]:
    facts: list[list[str]] = []
    for detail in (result.stream, result.generate, result.questions):
        if isinstance(detail, StreamDetail):
            facts.append(["text", tokens_line(detail)])
        if detail is not None:
            facts.append(["BOS", detail.bos])
            facts += [["forward pass", f"{count(chunk)} tokens"] for chunk in [getattr(detail, "chunk", None)] if chunk]
    if result.stream is not None and result.stream.sink_rate is not None:
        facts.append(["sink rate", f"{part(result.stream.sink_rate)} of heads give the first token more than 0.3"])
    if result.measure is not None:
        from sinkctl.report import measured_page

        facts = measured_page.facts(result.measure)
    if result.convert is not None:
        facts = converted.facts(result.convert)
    if result.bench is not None:
        facts = benched.facts(result.bench)
    facts += [[f"setting: {name}", said] for name, said in result.settings.items()]
    return facts if result.model is None else [*facts, ["model fingerprint", result.model.fingerprint]]
