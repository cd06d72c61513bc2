"""The cases, one a file: `sizes(case)` → label → size, `group(case, subject, size)` → the ways of that size."""

from sinkctl.tasks.bench.cases import (
    decode,
    kernel,
    measure,
    memory,
    quality,
    retrieval,
    stream,
    tasks,
    train,
)

# What a kind measures, and what a threshold may name; lm-evaluation-harness says for itself.
MEASURED = {
    "stream": ("tokens_per_s", "added_memory"),
    "decode": ("ms_per_token", "added_memory"),
    "memory": ("peak_memory",),
    "measure": ("tokens_per_s", "added_memory"),
    "train": ("tokens_per_s", "added_memory"),
    "kernel": ("ms", "added_memory"),
    "quality": ("perplexity",),
    "retrieval": ("exact_match",),
}
UNTIMED = ("memory", "quality", "retrieval", "tasks")

CASES = {
    "stream": stream,
    "decode": decode,
    "memory": memory,
    "measure": measure,
    "train": train,
    "kernel": kernel,
    "quality": quality,
    "retrieval": retrieval,
    "tasks": tasks,
}
