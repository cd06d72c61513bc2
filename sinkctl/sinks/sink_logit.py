"""A logit a head in the denominator of the softmax."""

from typing import Literal

from pydantic import Field

from sinkctl.sinks.base import LayerShape, Sink

FAR_BELOW = -1e4  # exp gives exactly 0, also in half precision; −inf can make NaN


class SinkLogit(Sink):
    """softmax over [scores, s_h], whose last outcome has no value (gpt-oss; Miller 2023's off-by-one has s = 0)."""

    kind: Literal["sink_logit"] = "sink_logit"
    start: Literal["match", "mean", "warm", "exact", "zero"] = Field(
        "match",
        description="match: takes the mass the first token took; mean: the first token's mean score; warm: `share` of "
        "the mass; exact: none at all, which never trains; zero: s = 0.",
    )
    bias: bool = Field(
        True,
        description="match, mean: add the first token's mean contribution to the output; match: also take what of its "
        "key hardly turns, and its value, from all keys and values.",
    )
    share: float = Field(0.01, gt=0, lt=1, description="warm: mass the logit takes where the log-sum-exp is average.")

    @property
    def measured(self) -> bool:
        return self.start in ("match", "mean", "warm")

    @property
    def folds(self) -> bool:
        return self.start == "match" and self.bias

    def begin(self, shape: LayerShape, seen):
        import torch

        from sinkctl.metrics.first_token import constant_part, folded_start, matched

        if self.start in ("exact", "zero"):
            return {"logit": torch.full((shape.heads,), FAR_BELOW if self.start == "exact" else 0.0)}
        if self.start == "warm":  # the first token stays, so it counts among the keys
            mean_H = torch.logaddexp(seen.lse_HN, seen.score_HN).mean(1)
            return {"logit": mean_H + torch.logit(torch.tensor(self.share))}

        lse_HN = seen.lse_HN if seen.folded is None else seen.folded.lse_HN

        def share_HN(logit_H):
            return torch.sigmoid(logit_H[:, None] - lse_HN)

        if self.start == "mean":
            logit_H = seen.score_HN.mean(1)
        else:
            low, high = float(lse_HN.min()) - 30, float(lse_HN.max()) + 30
            logit_H = matched(lambda logit_H: share_HN(logit_H).mean(1), seen.mass_HN.mean(1), low, high)
        begun = {"logit": logit_H}
        if seen.folded is not None:
            return begun | folded_start(seen, 1 - share_HN(logit_H))
        return begun | ({"bias": constant_part(seen, 1 - share_HN(logit_H))} if self.bias else {})
