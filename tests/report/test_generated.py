"""What a report says of generated text."""

import io

from rich.console import Console

from sinkctl.report.console import render
from sinkctl.report.html import html
from sinkctl.result.generate import GenerateDetail, GeneratedRow, Pace
from sinkctl.result.schema import Measurement, ModelReport, Result
from sinkctl.result.stream import MemorySample


def result(text: str) -> Result:
    row = GeneratedRow(prompt_tokens=12, tokens=1200, ended="enough tokens", text=text)
    detail = GenerateDetail(
        policy="4+252", cache_tokens=256, cache_bytes=3 << 20, sampling="greedy", bos="no BOS", prompt_seconds=0.5,
        rows=[row, row.model_copy(update={"ended": "end of sequence"})], pace=[Pace(tokens=1, seconds=0.01)],
        memory=[MemorySample(tokens=i, process_bytes=1 << 30, device_bytes=None) for i in (1, 600, 1200)],
    )  # fmt: skip
    model = ModelReport(name="demo", fingerprint="x", model_type="llama", parameters=5_510_000, dtype="float32",
                        device="cpu", context=512)  # fmt: skip
    speed = Measurement(name="generate.tokens_per_s", samples=[140.0], unit="tok/s", better="higher")
    return Result(task="generate", sinkctl_version="0", recipe={}, model=model, seconds=2.0, complete=True,
                  measurements=[speed], verdict=["2,400 tokens in 2 rows."], generate=detail)  # fmt: skip


def test_the_page_shows_every_row_and_runs_nothing_in_it():
    page = html(result("<script>alert(1)</script>\n\x1b[31mred"), {})
    assert "<script>" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\n" in page
    assert "Prompt 1: 12 tokens, and 1,200 generated (enough tokens)" in page
    assert "Prompt 2: 12 tokens, and 1,200 generated (end of sequence)" in page
    assert "Memory while the text was generated" in page


def test_the_terminal_shows_cache_and_speed():
    out = io.StringIO()
    render(result("text"), Console(file=out, width=100))
    assert "4+252: a cache of 256 tokens, 3 MiB for 2 rows; greedy" in out.getvalue()
    assert "140 tok/s" in out.getvalue()
