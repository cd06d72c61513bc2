"""A result as one HTML file: no request, no script, light and dark, fit to print."""

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from typing import Any

from sinkctl.report.benched import facts as benched_facts
from sinkctl.report.benched_html import benched
from sinkctl.report.converted_html import converted, converted_facts
from sinkctl.report.curves import captions
from sinkctl.report.generated import cache_line, row_line
from sinkctl.report.measured_html import measured, measured_facts
from sinkctl.report.parts import escaped, figure, listed, score_rows, section, table
from sinkctl.report.picture import memory_svg, svg
from sinkctl.report.printable import as_yaml
from sinkctl.report.questions import answer_table, examples, mistake_line, questions_line
from sinkctl.report.summary import (
    measurement_row,
    model_line,
    phases_line,
    score_table,
    speed_line,
    tokens_line,
    unfinished,
)
from sinkctl.result import numbers
from sinkctl.result.generate import GenerateDetail
from sinkctl.result.questions import QuestionsDetail
from sinkctl.result.schema import Result
from sinkctl.result.stream import Passage, StreamDetail

POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # the browser itself refuses scripts and requests


def html(result: Result, environment: dict[str, Any]) -> str:
    """The whole report as one page; every text in it is escaped."""
    several = [score.label for score in result.measure.checkpoints] if result.measure else []
    name = result.model.name if result.bench is None else result.bench.suite
    title = f"sinkctl {result.task}: {', '.join(several) if len(several) > 1 else name}"
    style = files("sinkctl.report").joinpath("page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            *_header(result, title),
            *(_stream(result.stream) if result.stream is not None else []),
            *(_generated(result.generate) if result.generate is not None else []),
            *(_questions(result.questions) if result.questions is not None else []),
            *(measured(result.measure) if result.measure is not None else []),
            *(converted(result.convert) if result.convert is not None else []),
            *(benched(result.bench) if result.bench is not None else []),
            *listed("Notes", result.notes),
            *_how(result),
            *section("Measurements", table(measurement_row(m) for m in result.measurements)),
            *section("Recipe", [f"<pre>{escape(as_yaml(result.recipe))}</pre>"]),
            *section("Environment", table(_flat(environment))),
            f'<footer class="quiet">sinkctl {escaped(result.sinkctl_version)}</footer>',
            "</body>",
            "</html>",
            "",
        ]
    )


def _header(result: Result, title: str) -> list[str]:
    phases = escaped(phases_line(result))
    model = "" if result.model is None else f"{escaped(model_line(result.model))}<br>"
    return [
        "<header>",
        f"<h1>{escaped(title)}</h1>",
        f'<p class="quiet">{model}{escaped(speed_line(result))}{f"<br>{phases}" if phases else ""}</p>',
        "</header>",
        *(f'<p class="warning">{escaped(line)}</p>' for line in unfinished(result)),
        *(f'<p class="verdict">{escaped(line)}</p>' for line in result.verdict),
    ]


def _stream(stream: StreamDetail) -> list[str]:
    parts = score_rows(score_table(stream.policies))
    if any(policy.curve for policy in stream.policies):
        where = "the text" if stream.texts is None else "each text"
        caption = " ".join([f"Perplexity against position in {where}.", *captions(stream.policies)])
        parts += figure(svg(stream.policies), caption)
    if stream.passages:
        under = f"Highest mean NLL under {stream.policies[0].label}." if stream.policies else ""
        parts += section(
            "Most surprising passages",
            [f'<p class="quiet">{escaped(under)}</p>', '<ol class="passages">']
            + [_passage(passage) for passage in stream.passages]
            + ["</ol>"],
        )
    if stream.memory:
        parts += section("Memory", figure(memory_svg(stream.memory), "Memory while the text was read."))
    return parts


def _generated(detail: GenerateDetail) -> list[str]:
    parts = [f"<p>{escaped(cache_line(detail))}</p>"]
    for number, row in enumerate(detail.rows, 1):
        lines = "\n".join(map(escaped, row.text.split("\n")))
        parts += section(row_line(number, row), [f"<pre>{lines}</pre>"])
    if detail.memory:
        parts += section("Memory", figure(memory_svg(detail.memory), "Memory while the text was generated."))
    return parts


def _questions(questions: QuestionsDetail) -> list[str]:
    wrong = examples(questions)
    title = f"Wrong under {wrong[0][0]}, although the answer was there" if wrong else ""
    return [
        f"<p>{escaped(questions_line(questions))}</p>",
        *score_rows(answer_table(questions)),
        *listed(title, [mistake_line(mistake) for _, mistake in wrong]),
    ]


def _passage(passage: Passage) -> str:
    place = f"{passage.file}:{passage.line}"
    offset = f"byte {numbers.count(passage.byte)}, {passage.nll:.2f} nats over {numbers.count(passage.tokens)} tokens"
    return (
        f'<li><strong>{escaped(place)}</strong> <span class="quiet">{escaped(offset)}</span>'
        f"<code>{escaped(passage.text)}</code></li>"
    )


def _how(result: Result) -> list[str]:
    facts = []
    if result.stream is not None:
        stream = result.stream
        facts = [
            ["text", tokens_line(stream)],
            ["BOS", stream.bos],
            ["forward pass", f"{numbers.count(stream.chunk)} tokens"],
        ]
        if stream.sink_rate is not None:
            facts.append(
                ["sink rate", f"{numbers.percent(100 * stream.sink_rate)} of heads give the first token more than 0.3"]
            )
    if result.generate is not None:
        facts = [["BOS", result.generate.bos]]
    if result.questions is not None:
        facts = [["BOS", result.questions.bos], ["forward pass", f"{numbers.count(result.questions.chunk)} tokens"]]
    if result.measure is not None:
        facts = measured_facts(result.measure)
    if result.convert is not None:
        facts = converted_facts(result.convert)
    if result.bench is not None:
        facts = benched_facts(result.bench)
    if result.model is not None:
        facts.append(["model fingerprint", result.model.fingerprint])
    return [
        *section("How it was run", table(facts)),
        *section("Automatic choices", table([name, reason] for name, reason in result.choices.items())),
        *listed("Layers", [] if result.model is None else result.model.layers),
    ]


def _flat(data: dict[str, Any], prefix: str = "") -> Iterable[list[str]]:
    """Nested data as (dotted name, value) rows; lists by index, bytes in their units, nulls left out."""
    for name, value in data.items():
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield [f"{prefix}{name}", numbers.memory(value) if str(name).endswith("_bytes") else str(value)]
