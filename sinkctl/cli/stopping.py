"""Ctrl-C and SIGTERM as a wish: stop when what is under way is done."""

import signal
import sys

from sinkctl.errors import Interrupted


class Stopping:
    """The first Ctrl-C or SIGTERM asks for a stop when a block or token is done; the second stops at once."""

    def __init__(self, kept: str = "with --output, what the last checkpoint holds can be resumed") -> None:
        self.by: int | None = None  # the signal
        self._kept = kept

    def asked(self) -> bool:
        return self.by is not None

    def _handle(self, number: int, *_) -> None:
        if self.asked():
            raise Interrupted(f"stopped at once; {self._kept}" if self._kept else "stopped at once")
        self.by = number
        print("\nstopping …", file=sys.stderr)

    def __enter__(self) -> None:
        self._before = {name: signal.signal(name, self._handle) for name in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)
