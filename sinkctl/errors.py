"""What goes wrong for a user, each kind with its exit code; the command line prints the message as one line.

0 done; 1 a `--fail-on` threshold failed, and nothing else; 2 usage or recipe; 3 model, text, baseline or environment,
and a threshold on what could not be measured; 70 a fault of sinkctl's own (EX_SOFTWARE); 130 interrupted.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

REPORT = "This is a fault of sinkctl: please report it, with what SINKCTL_DEBUG=1 and `sinkctl doctor` print"


# In what torch, cuBLAS and cuDNN say.
NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")
KILLED = -9  # of a process: by signal 9, as the kernel does where memory does not suffice


class SinkctlError(Exception):
    """A problem the user can act on: say what, where, and what to do next."""

    exit_code = 3
    said = False  # already, by another process


class UsageError(SinkctlError):
    """A wrong flag, argument or recipe."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be read or does not validate; the message names file, line and field."""

    def __init__(self, message: str, problems: Sequence[str] = ()):
        super().__init__(message)
        self.problems = list(problems) or [message]


class ModelError(SinkctlError):
    """A checkpoint that cannot be loaded, or cannot do what was asked."""


class TextError(SinkctlError):
    """A text that cannot be opened, decompressed or decoded."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, or it was raised from such an error.

    On a CPU, and in a library that torch calls, that has no class of its own.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's; this imports none
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY):
        return True
    return error.__cause__ is not None and out_of_memory(error.__cause__)


@contextmanager
def within_memory(device: object, hint: str) -> Iterator[None]:
    """ModelError, which says what takes less, where memory does not suffice inside."""
    try:
        yield
    except Exception as error:
        if isinstance(error, SinkctlError) or not out_of_memory(error):
            raise
        raise ModelError(f"{device} is out of memory: {hint}") from error


def of_exit(code: int) -> type[SinkctlError]:
    """What a command that ended so met: ModelError where it refused or was killed for memory, else SinkctlError."""
    return ModelError if code in (UsageError.exit_code, ModelError.exit_code, KILLED) else SinkctlError


def named(error: BaseException) -> str | None:
    """The kind of it that stands here, by name, as another process can be told; None for what is none of them."""
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__), None)


class ResumeError(SinkctlError):
    """A run folder that cannot be continued."""


class BaselineError(SinkctlError):
    """A baseline that cannot be read, or that this run cannot be compared with."""


REFUSALS = (ModelError, TextError, UsageError)  # what cannot be done with this model, text or setting; no fault


class ThresholdError(SinkctlError):
    """A `--fail-on` threshold was crossed."""

    exit_code = 1


class UnmeasuredError(SinkctlError):
    """A `--fail-on` threshold on what could not be measured, or not be compared with the baseline."""


class UnforeseenError(SinkctlError):
    """A fault of sinkctl's own: an exception that nobody thought of."""

    exit_code = 70

    @classmethod
    def of(cls, error: BaseException) -> "UnforeseenError":
        """The exception in one line, and what to do about it."""
        return cls(f"{' '.join(f'{type(error).__name__}: {error}'.split())[:500]}. {REPORT}")


class Interrupted(SinkctlError):
    """Stopped by the user; the message says what was kept, and `result` is what was found, where that is something."""

    result: object = None

    exit_code = 130
