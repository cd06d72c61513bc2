"""`stream`: per-token losses of a text of any length, in constant memory."""

from sinkctl.tasks.stream.calibration import calibrated
from sinkctl.tasks.stream.outcome import Outcome
from sinkctl.tasks.stream.scoring import Progress, ScoredBlock, StreamRun
from sinkctl.tasks.stream.task import run

__all__ = ["Outcome", "Progress", "ScoredBlock", "StreamRun", "calibrated", "run"]
