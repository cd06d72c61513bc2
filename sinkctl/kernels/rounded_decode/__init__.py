"""Attention of one new token a row over keys and values of which all but the recent ones are held in few bits."""

from sinkctl.kernels.rounded_decode.reference import Angles, Rule, Store, rounded_decode
from sinkctl.kernels.rounded_decode.select import IMPLEMENTATIONS, select

__all__ = ["IMPLEMENTATIONS", "Angles", "Rule", "Store", "rounded_decode", "select"]
