"""Products of one row with several matrices, for generation: bound by reading the matrices once."""

from sinkctl.kernels.row_products.reference import row_products
from sinkctl.kernels.row_products.select import select

__all__ = ["row_products", "select"]
