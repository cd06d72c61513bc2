"""Sigmoid gates."""

from typing import Any, Literal

from pydantic import Field, model_validator

from sinkctl.sinks.base import LayerShape, Sink

RIDGE = 1e-3  # of the mean square of the features


class Gate(Sink):
    """σ(W x) times what attention gives, its values or its input, x the layer's input (arXiv 2505.06708)."""

    kind: Literal["gate"] = "gate"
    place: Literal["output", "value", "input"] = Field("output", description="What is gated.")
    form: Literal["headwise", "elementwise"] = Field(
        "headwise", description="One number a head (input: a token), or one a channel."
    )
    start: Literal["exact", "match"] = Field(
        "exact",
        description="exact: W = 0 and the next (input: the three next) projections doubled, so nothing changes; match: "
        "the output gate nearest to what the softmax kept beside the first token, which goes.",
    )
    bias: bool = Field(True, description="match: add the first token's mean contribution to the gated output.")

    @model_validator(mode="after")
    def _match_is_for_outputs(self) -> "Gate":
        if self.start == "match" and self.place != "output":
            raise ValueError(f"start match: the first token's share leaves with the output, not with the {self.place}")
        return self

    @property
    def hidden(self) -> bool:
        return self.start == "match"

    def begin(self, shape: LayerShape, seen):
        import torch

        from sinkctl.metrics.first_token import constant_part

        blocks, size = {
            "output": (shape.heads, shape.value_width), "value": (shape.kv_heads, shape.value_width),
            "input": (1, shape.hidden),
        }[self.place]  # fmt: skip
        size = 1 if self.form == "headwise" else size
        if self.start == "exact":
            return {"gate.weight": torch.zeros(blocks * size, shape.hidden)}
        weight_HC, bias_H = _regressed(seen.x_NC, (seen.lse_HN - seen.score_HN).T)
        gate = {"gate.weight": weight_HC.repeat_interleave(size, 0), "gate.bias": bias_H.repeat_interleave(size, 0)}
        if not self.bias:
            return gate
        gate_HN = torch.sigmoid(seen.x_NC @ weight_HC.T + bias_H).T
        return gate | {"bias": constant_part(seen, gate_HN)}

    def stored(self) -> dict[str, Any]:
        return {"kind": self.kind, "place": self.place, "form": self.form}


def _regressed(x_NC, logit_NH):
    """Ridge regression of each head's logit on the layer's input: (weight_HC, bias_H)."""
    import torch

    x_NC, logit_NH = x_NC.double(), logit_NH.double()
    x_C, logit_H = x_NC.mean(0), logit_NH.mean(0)
    centred_NC = x_NC - x_C
    gram_CC = centred_NC.T @ centred_NC
    gram_CC.diagonal().add_(RIDGE * gram_CC.diagonal().mean())
    weight_CH = torch.linalg.solve(gram_CC, centred_NC.T @ (logit_NH - logit_H))
    return weight_CH.T.float(), (logit_H - x_C @ weight_CH).float()
