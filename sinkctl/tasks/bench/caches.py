"""Cache policies as a case names them: `4+252`, `dense`, `recompute:4+252`."""

import re

from sinkctl.cache.policies import Policy
from sinkctl.recipe import shorthand
from sinkctl.recipe.load import validate


def policy_of(text: str) -> Policy:
    """The policy; UsageError for what is none."""
    data = {"task": "generate", "policy": shorthand.policy(text)}
    return validate(data, f"caches: {text}").policy


def label_of(*words: str) -> str:
    """Names from outside as the label of a size: no dots, colons or spaces."""
    return ",".join(re.sub(r"[.:\s]+", "-", word) for word in words)
