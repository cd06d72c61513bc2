"""What goes wrong for a user, each kind with its exit code; the command line prints the message as one line."""


class SinkctlError(Exception):
    """A problem the user can act on: say what, where, and what to do next."""

    exit_code = 3


class UsageError(SinkctlError):
    """A wrong flag, argument or recipe."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be read or does not validate; the message names file, line and field."""


class ModelError(SinkctlError):
    """A checkpoint that cannot be loaded, or cannot do what was asked."""


class TextError(SinkctlError):
    """A text that cannot be opened, decompressed or decoded."""


class ResumeError(SinkctlError):
    """A run folder that cannot be continued."""


class BaselineError(SinkctlError):
    """A baseline that cannot be read, or that this run cannot be compared with."""


class ThresholdError(SinkctlError):
    """A `--fail-on` threshold was crossed."""

    exit_code = 1


class Interrupted(SinkctlError):
    """Stopped by the user; the message says what was kept."""

    exit_code = 130
