"""`generate`: text past any context length, in constant memory and time a token."""

from sinkctl.tasks.generate.generation import GenerateRun, Tokens
from sinkctl.tasks.generate.task import Generated, run

__all__ = ["GenerateRun", "Generated", "Tokens", "run"]
