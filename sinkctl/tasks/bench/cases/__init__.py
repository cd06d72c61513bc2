"""The cases, one a file: `group(case, subject, size)` → the ways of the case at that size."""

from sinkctl.tasks.bench.cases import (
    decode,
    kernel,
    measure,
    memory,
    prefix,
    processes,
    quality,
    retrieval,
    startup,
    stream,
    tasks,
    train,
)

CASES = {
    "stream": stream,
    "decode": decode,
    "memory": memory,
    "processes": processes,
    "measure": measure,
    "train": train,
    "kernel": kernel,
    "quality": quality,
    "prefix": prefix,
    "retrieval": retrieval,
    "tasks": tasks,
    "startup": startup,
}
