"""Metrics of a checkpoint: one a file, one definition, one test against a closed form.

Each takes (view, scope) and gives a tensor whose first dimension is the samples, or None where a layer has no such
thing; N samples, H query heads, G key/value heads, T tokens, K = `scope.sinks` leading keys. Numbers that do not exist
are NaN. Besides: `sink_rate.py` measures a whole model, `head_class.py` names heads, `experts.py` looks at routers.
"""

from sinkctl.metrics.alpha import alpha
from sinkctl.metrics.balance import balance_error
from sinkctl.metrics.cross import (
    cross_alpha,
    cross_balance,
    cross_entropy,
    cross_entropy_share,
    cross_key_norms,
    cross_output,
    cross_split,
)
from sinkctl.metrics.distance import mean_distance
from sinkctl.metrics.entropy import entropy, entropy_share
from sinkctl.metrics.first_keys import first_keys
from sinkctl.metrics.gate import first_gate, gate
from sinkctl.metrics.group_mass import group_mass
from sinkctl.metrics.head_mass import mass_split
from sinkctl.metrics.learned import learned_mass, learned_sinks
from sinkctl.metrics.massive import massive
from sinkctl.metrics.outliers import outliers
from sinkctl.metrics.output import head_output
from sinkctl.metrics.qk import key_logit, key_norms, qk_cosine, query_norm
from sinkctl.metrics.rank import rank
from sinkctl.metrics.residual_norm import norm_ratio, patch_norms, residual_norms
from sinkctl.metrics.tail import boost, last_query, tail_mass
from sinkctl.metrics.values import value_drain, value_norms, written_norms

ATTENTION = {
    # Where attention goes
    "alpha": alpha,  # [N, H, T]
    "first_keys": first_keys,  # [N, T, K]
    "last_query": last_query,  # [N, H, K]
    "tail_mass": tail_mass,  # [N, H]
    "boost": boost,  # [N, H]
    "mass_split": mass_split,  # [N, H, 4]: sinks, near, rest, sink logit
    "group_mass": group_mass,  # [N, H, K]: by kinds of keys
    "learned_mass": learned_mass,  # [N, H]
    "learned_sinks": learned_sinks,  # [N, H]
    "entropy": entropy,  # [N, H]
    "entropy_share": entropy_share,  # [N, H]
    "mean_distance": mean_distance,  # [N, H]
    # Why it goes there
    "qk_cosine": qk_cosine,  # [N, H, 2]: with the first key, with the others
    "key_logit": key_logit,  # [N, H]
    "key_norms": key_norms,  # [N, G, 2]: first, mean of the others
    "query_norm": query_norm,  # [N, H]
    # What comes of it
    "value_norms": value_norms,  # [N, G, 2]: first, mean of the others
    "value_drain": value_drain,  # [N, G]
    "written_norms": written_norms,  # [N, H, 2]: first, mean of the others
    "head_output": head_output,  # [N, H]
    "gate": gate,  # [N, H]
    "first_gate": first_gate,  # [N, H]
    # Whether to believe it
    "balance_error": balance_error,  # [N, H]
}

# Of cross-attention, which has no order that queries and keys share: the same names, by definitions of its own.
CROSS = {
    "alpha": cross_alpha,
    "mass_split": cross_split,
    "group_mass": group_mass,
    "entropy": cross_entropy,
    "entropy_share": cross_entropy_share,
    "key_norms": cross_key_norms,
    "value_norms": value_norms,
    "value_drain": value_drain,
    "written_norms": written_norms,
    "head_output": cross_output,
    "balance_error": cross_balance,
}

MEANS_OF_HEADS = ("first_keys",)  # the others are by head, in dimension 1

BLOCK = {
    "massive": massive,  # [N, 8]: top-1, top-2, top-3, median, massive elements, token, channel, not-finite elements
    "residual_norms": residual_norms,  # [N, 2]: first, mean of the others
    "norm_ratio": norm_ratio,  # [N]
    "patch_norms": patch_norms,  # [N, T]
    "outliers": outliers,  # [N, 3]: max |h|, kurtosis, share beyond 6 σ
    "rank": rank,  # [N, 3]: matrix entropy, effective rank, share of the first direction
}
