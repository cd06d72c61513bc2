"""Progress on standard error: a bar on a terminal, and elsewhere a plain line every few seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sinkctl.result.numbers import duration

EVERY = 10.0  # seconds between two lines


@contextmanager
def shown(console: Console) -> Iterator[Callable]:
    """A callback that shows share done, tokens/s, perplexity, memory, time left."""
    if console.quiet or not console.is_terminal:
        plain = _Plain(console)
        yield lambda progress: plain.say(progress.share, _scored(progress))
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
            total = None if not progress.share else 1.0
            share = f"{progress.share:.0%}" if progress.share else ""
            drawn.update(task, total=total, completed=progress.share or 0, words=_scored(progress), share=share)

        yield show


@contextmanager
def parts_shown(console: Console, found: bool = False) -> Iterator[Callable]:
    """A callback that shows the share done, what is under way and the time left; with `found`, what is known by now."""
    if console.quiet or not console.is_terminal:
        plain = _Plain(console)

        def say(progress) -> None:
            _known(progress, console, found)
            plain.say(progress.share, progress.what, getattr(progress, "seconds_left", None))

        yield say
        return
    columns = (BarColumn(bar_width=20), TextColumn("{task.percentage:.0f} %"), TextColumn("{task.fields[what]}"))
    ending = (TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, *ending, console=console, transient=True) as drawn:
        task = drawn.add_task("parts", total=1.0, what="loading", left="")

        def show(progress) -> None:
            _known(progress, drawn.console, found)
            left = getattr(progress, "seconds_left", None)
            words = "" if left is None else f"about {duration(left)} left"
            drawn.update(task, completed=progress.share, what=progress.what, left=words)

        yield show


class _Plain:
    """Lines for a log: share done, what is under way, time left."""

    def __init__(self, console: Console):
        self._console, self._began = console, time.monotonic()
        self._last, self._estimated = self._began, False

    def say(self, share: float | None, words: str, left: float | None = None) -> None:
        """Every few seconds; at once what a long run is expected to take."""
        now = time.monotonic()
        if left is None and share:
            left = (now - self._began) * (1 - share) / share
        long = left is not None and left > EVERY and not self._estimated and not share
        if self._console.quiet or not (long or now - self._last >= EVERY):
            return
        self._last, self._estimated = now, self._estimated or long
        done = "" if not share else f"{100 * share:.0f} % "
        ahead = "" if left is None else f", about {duration(float(f'{left:.2g}'))} left"
        self._console.print(f"{done}{words}{ahead}", highlight=False, markup=False, soft_wrap=True)


def _scored(progress) -> str:
    if progress.what:
        return progress.what
    losses = "  ".join(f"{label} {p:.2f}" for label, p in progress.perplexities.items() if p is not None)
    memory = (progress.device_bytes or progress.process_bytes) / 2**30
    return f"{progress.tokens:,} tok  {progress.tokens_per_second:,.0f} tok/s  ppl {losses}  {memory:.2f} GiB"


def _known(progress, console: Console, found: bool) -> None:
    for line in getattr(progress, "found", ()) if found else ():
        console.print(f"so far: {line}", highlight=False, markup=False, soft_wrap=True)
