"""`sinkctl bench`: what the other commands promise, measured beside what would be run instead."""

from sinkctl.tasks.bench.driver import Progress
from sinkctl.tasks.bench.task import run

__all__ = ["Progress", "run"]
