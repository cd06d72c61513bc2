"""A result as one HTML file: no request, no script, light and dark, fit to print."""

from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from itertools import count as counter
from typing import Any

from sinkctl.report.draw import NARROW, WIDE, inline
from sinkctl.report.page import headline, sections
from sinkctl.report.parts import Section
from sinkctl.report.printable import as_yaml, visible
from sinkctl.report.summary import measurement_table, model_line, phases_line, speed_line, unfinished
from sinkctl.result import numbers
from sinkctl.result.schema import Result

# Terms of a report; docs/glossary.md says more of them.
WORDS = {
    "Attention sink": "a token that many heads attend to whatever it says; usually the first one",
    "Perplexity": "exp of the mean loss of a token: among how many equally likely tokens the model seems to choose",
    "NLL": "the loss of a token in nats: −ln of the probability the model gave it",
    "KV cache": "keys and values of earlier tokens; S+W keeps the first S and the last W",
    "α, Sink₁": "α: what a token receives from itself and all later ones, a mean; Sink₁: heads with α₁ above ε",
    "Massive activation": "an element of the residual stream above 100 and 1,000 times the median",
    "Control": "the same treatment without the mechanism",
    "Standard error": "how far a mean would move with other samples; under two of them nothing is shown",
}


def html(result: Result, environment: dict[str, Any]) -> str:
    """The whole report as one page; every text in it is escaped."""
    from markupsafe import Markup

    several = [score.label for score in result.measure.checkpoints] if result.measure else []
    name = result.model.name if result.bench is None else result.bench.suite
    ids, shown = counter(), [*sections(result), *_ending(result, environment)]
    anchors = {id(section): f"s{number}" for number, section in enumerate(shown)}
    style = files("sinkctl.report").joinpath("templates/page.css").read_text(encoding="utf-8")

    def fresh(kind: str) -> str:
        return f"{kind}-{next(ids)}"

    return _template().render(
        title=f"sinkctl {result.task}: {', '.join(several) if len(several) > 1 else name}",
        style=Markup(style + _colours(result)),
        under=["" if result.model is None else model_line(result.model), speed_line(result), phases_line(result)],
        unfinished=unfinished(result),
        figures=headline(result),
        verdict=result.verdict,
        sections=shown,
        version=result.sinkctl_version,
        fresh=fresh,
        anchor=lambda section: anchors.get(id(section), ""),
        draw=lambda picture, wide: Markup(inline(picture, fresh(picture.name), WIDE if wide else NARROW)),
    )


def _ending(result: Result, environment: dict[str, Any]) -> list[Section]:
    """What every report ends with, folded but for the notes."""
    folded = {
        "Automatic choices": ("facts", list(result.choices.items())),
        "Layers": ("list", [] if result.model is None else result.model.layers),
        "Measurements": ("facts", measurement_table(result.measurements).rows),
        "Recipe": ("pre", as_yaml(result.recipe)),
        "Environment": ("facts", list(_flat(environment))),
        "Words": ("facts", list(WORDS.items())),
    }
    return [Section("Notes", [("list", result.notes)]), *(Section(t, [part], True) for t, part in folded.items())]


def _colours(result: Result) -> str:
    """The rules of heatmaps, where there are any."""
    if result.measure is None:
        return ""
    from sinkctl.report.cells import rules

    heads = [score.heads for checkpoint in result.measure.checkpoints for score in checkpoint.inputs]
    return rules(max((len(one.keys) for one in heads if one is not None), default=1))


@lru_cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sinkctl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda text: visible(text) if type(text) is str else text,
    )
    return environment.get_template("page.html")


def _flat(data: dict[str, Any], prefix: str = "") -> Iterable[list[str]]:
    """Nested data as (dotted name, value) rows; lists by index, bytes in their units, nulls left out."""
    for name, value in data.items():
        value = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield [f"{prefix}{name}", numbers.memory(value) if str(name).endswith("_bytes") else str(value)]
