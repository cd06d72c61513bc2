"""A conversion as sections of a page: both tables, streams as bars, the training, and what each layer began with."""

from sinkctl.report.bars import Bar, bars_svg
from sinkctl.report.converted import (
    TEXTS_OWN,
    calibration_lines,
    checkpoint_table,
    loading_words,
    mechanism_words,
    rounded_table,
    start_table,
    stored_line,
    stream_table,
)
from sinkctl.report.parts import escaped, figure, score_rows, section, table
from sinkctl.report.trained_html import trained
from sinkctl.result.convert import CONTROL, ORIGINAL, START, ConvertDetail, StreamedLine
from sinkctl.result.numbers import count, memory

BAR_COLOURS = {ORIGINAL: 0, CONTROL: 2}


def converted(detail: ConvertDetail) -> list[str]:
    """What was given, both comparisons, and where the start comes from."""
    streams = score_rows(stream_table(detail))
    if detail.streams:
        words = "Perplexity of the held-out text, streamed"
        # Random weights would leave the other bars no room.
        shown = [line for line in detail.streams if line.checkpoint != START or not detail.from_scratch]
        drawing = bars_svg(list(map(_bar, shown)), name="streamed", title=words, x_title="perplexity")
        streams += figure(drawing, f"{words}.")
    parts = [f"<p>The checkpoint was given {escaped(mechanism_words(detail))}; {escaped(stored_line(detail))}.</p>"]
    parts += section("Streams", streams)
    parts += section("Keys and values in few bits", score_rows(rounded_table(detail)))
    parts += section("Checkpoints", score_rows(checkpoint_table(detail)))
    if detail.training is not None:
        parts += trained(detail.training, detail.mechanism)
    if detail.calibration is not None:
        said = [f"<p>{escaped(' '.join(calibration_lines(detail.calibration)))}</p>"]
        parts += section("Calibration", said + score_rows(start_table(detail.calibration)))
    return parts + section("Files", table([name, memory(size)] for name, size in detail.files.items()))


def converted_facts(detail: ConvertDetail) -> list[list[str]]:
    """How it was converted, as rows of a table."""
    settings = [f"{name}: {value}" for name, value in detail.settings.items()]
    return [
        ["mechanism", ", ".join([detail.mechanism, *settings])],
        ["stored", f"{detail.model_type}, {detail.stored}"],
        ["in transformers", loading_words(detail)],
        ["weights", detail.dtype],
        ["new parameters", f"{count(detail.parameters)}, {detail.sink_dtype} as loaded"],
        ["in front of texts", detail.bos],
        ["cache", f"{count(detail.window)} tokens"],
        ["streamed", f"{count(detail.held_out)} tokens scored"],
        ["samples", f"{count(detail.scored)} tokens scored"],
    ]


def _bar(line: StreamedLine) -> Bar:
    front = "" if line.first.startswith(TEXTS_OWN) else f" ({line.first})"
    return Bar(f"{line.checkpoint} {line.policy}{front}", line.perplexity, BAR_COLOURS.get(line.checkpoint, 1))
