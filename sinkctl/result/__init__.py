"""What a task returns, and the run folder it is kept in."""

from sinkctl.result.schema import Measurement, ModelReport, Result

__all__ = ["Measurement", "ModelReport", "Result"]
