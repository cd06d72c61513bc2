"""Measure checkpoints: where their attention sinks are, how strong, what carries them, what they cost."""

from sinkctl.tasks.measure.checkpoint import Progress
from sinkctl.tasks.measure.task import Outcome, run

__all__ = ["Outcome", "Progress", "run"]
