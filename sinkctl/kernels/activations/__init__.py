"""The largest elements of a residual stream, and how its elements are spread."""

from sinkctl.kernels.activations.reference import is_massive, lower_median
from sinkctl.kernels.activations.select import massive, outliers

__all__ = ["is_massive", "lower_median", "massive", "outliers"]
