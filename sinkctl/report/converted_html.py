"""A conversion as sections of a page: both tables, the streams as bars, and what each layer began with."""

from sinkctl.report.bars import Bar, bars_svg
from sinkctl.report.converted import (
    ORIGINAL,
    calibration_lines,
    checkpoint_table,
    loading_words,
    mechanism_words,
    start_table,
    stored_line,
    stream_table,
)
from sinkctl.report.parts import escaped, figure, score_rows, section, table
from sinkctl.report.units import count, memory
from sinkctl.result.convert import ConvertDetail, StreamedLine


def converted(detail: ConvertDetail) -> list[str]:
    """What was given, both comparisons, and where the start comes from."""
    streams = score_rows(stream_table(detail))
    if detail.streams:
        words = "Perplexity of the held-out text, streamed"
        drawing = bars_svg(list(map(_bar, detail.streams)), name="streamed", title=words, x_title="perplexity")
        streams += figure(drawing, f"{words}.")
    parts = [f"<p>The checkpoint was given {escaped(mechanism_words(detail))}; {escaped(stored_line(detail))}.</p>"]
    parts += section("Streams", streams)
    parts += section("Checkpoints", score_rows(checkpoint_table(detail)))
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
    return Bar(f"{line.checkpoint} {line.policy} ({line.first})", line.perplexity, int(line.checkpoint != ORIGINAL))
