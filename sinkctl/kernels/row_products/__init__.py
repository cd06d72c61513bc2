"""Products of a few rows with several matrices, for a token of generation: bound by reading the matrices once."""

from sinkctl.kernels.row_products.reference import Norm, row_products
from sinkctl.kernels.row_products.select import IMPLEMENTATIONS, select

__all__ = ["IMPLEMENTATIONS", "Norm", "row_products", "select"]
