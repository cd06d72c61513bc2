"""What attention did, without its T×T map: output, log-sum-exp, entropy, distance, and what every key received."""

from sinkctl.kernels.column_sums.reference import AttentionSums, Visible, column_sums, per_query
from sinkctl.kernels.column_sums.select import IMPLEMENTATIONS, select

__all__ = ["IMPLEMENTATIONS", "AttentionSums", "Visible", "column_sums", "per_query", "select"]
