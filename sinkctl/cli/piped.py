"""Text that is piped into a command without a word for it."""

import io
import os
import stat
import sys
from select import select

PATIENCE = 2.0  # seconds before it says what it waits for


def piped() -> bool:
    """Whether standard input is a pipe or a file that holds something: waits for its first byte, and takes none."""
    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, io.UnsupportedOperation):  # closed, or no file at all
        return False
    if stat.S_ISFIFO(kind) and not select([sys.stdin], [], [], PATIENCE)[0]:
        print("sinkctl: waiting for text on standard input (< /dev/null scores the built-in text)", file=sys.stderr)
    return (stat.S_ISFIFO(kind) or stat.S_ISREG(kind)) and bool(sys.stdin.buffer.peek(1))
