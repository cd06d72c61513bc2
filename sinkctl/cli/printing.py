"""Text out of a model on standard output: as it is into a file, harmless on a terminal."""

import os
import sys

from sinkctl.report.printable import visible


def say(text: str) -> None:
    """Print at once, without a line end."""
    if sys.stdout.isatty():
        text = "".join(c if c in "\n\t" else visible(c) for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has enough (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
