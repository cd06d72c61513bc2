"""Convert checkpoints: give them a designed sink, written so that stock tools load it."""

from sinkctl.tasks.convert.task import Outcome, Progress, run

__all__ = ["Outcome", "Progress", "run"]
