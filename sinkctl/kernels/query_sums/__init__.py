"""What each query and key is, and what queries give to the leading and the near keys, in O(T)."""

from sinkctl.kernels.query_sums.reference import (
    AgainstKeys,
    QuerySums,
    against_keys,
    attention_part,
    near_mass,
    query_sums,
    scores,
)
from sinkctl.kernels.query_sums.select import fused, fused_sums, norm, written_norm

__all__ = [
    "AgainstKeys", "QuerySums", "against_keys", "attention_part", "fused", "fused_sums", "near_mass", "norm",
    "query_sums", "scores", "written_norm",
]  # fmt: skip
