"""Text out of a model on standard output: as it is into a file, harmless on a terminal."""

import sys

from sinkctl.report.printable import visible


def say(text: str) -> None:
    """Print at once, without a line end."""
    if sys.stdout.isatty():
        text = "".join(c if c in "\n\t" else visible(c) for c in text)
    sys.stdout.write(text)
    sys.stdout.flush()
