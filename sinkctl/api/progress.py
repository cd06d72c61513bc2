"""A bar for whoever gives no callback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from sinkctl.launched import first


@contextmanager
def share_shown(progress: Callable | None) -> Iterator[Callable[[Any], None]]:
    """The callback given, or a bar."""
    with tqdm(total=100, unit="%", disable=progress is not None or not first()) as bar:

        def show(now: Any) -> None:
            bar.set_description(now.what)
            bar.update(round(100 * now.share) - bar.n)

        yield progress or show
