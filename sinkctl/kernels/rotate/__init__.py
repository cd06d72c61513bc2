"""Rotary position embedding of queries or keys, at any positions."""

from sinkctl.kernels.rotate.reference import rotate
from sinkctl.kernels.rotate.select import select

__all__ = ["rotate", "select"]
