"""Rows of a run as CSV, as JSON lines, or as both."""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any


def write_rows(
    folder: Path, stem: str, forms: Sequence[str], head: Sequence[str],
    rows: Iterable[tuple[dict[str, Any], Sequence[Any]]],
) -> None:  # fmt: skip
    """Write `stem`.csv, `stem`.jsonl, or both, as `forms` says, each in one step.

    A row is what its line of JSON holds, and the cells of its line of CSV, under `head`; None is an empty cell.
    """
    with ExitStack() as stack:
        files = {
            form: stack.enter_context((folder / f".{stem}.{form}.tmp").open("w", encoding="utf-8", newline=""))
            for form in forms
        }
        table = csv.writer(files["csv"], lineterminator="\n") if "csv" in files else None
        if table is not None:
            table.writerow(head)
        for record, cells in rows:
            if "jsonl" in files:
                files["jsonl"].write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            if table is not None:
                table.writerow(cells)
    for form in forms:
        os.replace(folder / f".{stem}.{form}.tmp", folder / f"{stem}.{form}")
