"""Generated text in a report: what each prompt became."""

from sinkctl.result.generate import GenerateDetail, GeneratedRow
from sinkctl.result.numbers import count, memory


def cache_line(detail: GenerateDetail) -> str:
    """4+252: a cache of 256 tokens, 1.5 MiB for 16 rows; greedy."""
    size = (
        "a cache that grows with the text"
        if detail.cache_tokens is None
        else f"a cache of {count(detail.cache_tokens)} tokens"
    )
    rows = f" for {len(detail.rows)} rows" if len(detail.rows) > 1 else ""
    return f"{detail.policy}: {size}, {memory(detail.cache_bytes)}{rows}; {detail.sampling}"


def row_line(number: int, row: GeneratedRow) -> str:
    """Prompt 1: 12 tokens, and 200 generated (end of sequence)."""
    return f"Prompt {number}: {count(row.prompt_tokens)} tokens, and {count(row.tokens)} generated ({row.ended})"
