"""Live progress on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def shown(console: Console) -> Iterator[Callable]:
    """A callback that draws share done, tokens/s, perplexity, memory, time left; nothing on what is no terminal."""
    if console.quiet or not console.is_terminal:
        yield lambda _: None
        return
    columns = (
        BarColumn(bar_width=20),
        TextColumn("{task.fields[share]}"),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as drawn:
        task = drawn.add_task("stream", total=None, words="starting", share="")

        def show(progress) -> None:
            losses = "  ".join(f"{label} {p:.2f}" for label, p in progress.perplexities.items() if p is not None)
            memory = (progress.device_bytes or progress.process_bytes) / 2**30
            words = f"{progress.tokens:,} tok  {progress.tokens_per_second:,.0f} tok/s  ppl {losses}  {memory:.2f} GiB"
            total = None if not progress.share else 1.0
            share = f"{progress.share:.0%}" if progress.share else ""
            drawn.update(task, total=total, completed=progress.share or 0, words=words, share=share)

        yield show


@contextmanager
def parts_shown(console: Console) -> Iterator[Callable]:
    """A callback that draws the share done and what is under way; on anything but a terminal it draws nothing."""
    if console.quiet or not console.is_terminal:
        yield lambda _: None
        return
    columns = (BarColumn(bar_width=20), TextColumn("{task.percentage:.0f}%"), TextColumn("{task.fields[what]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as drawn:
        task = drawn.add_task("parts", total=1.0, what="loading")
        yield lambda progress: drawn.update(task, completed=progress.share, what=progress.what)
