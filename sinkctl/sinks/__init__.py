"""Designed sinks, one a file: settings, how a checkpoint begins with it, what its config.json says of it."""

from typing import Annotated

from pydantic import Field

from sinkctl.sinks.base import LayerShape, Sink
from sinkctl.sinks.clipped_softmax import ClippedSoftmax
from sinkctl.sinks.elu import Elu
from sinkctl.sinks.gate import Gate
from sinkctl.sinks.key_bias import KeyBias
from sinkctl.sinks.kv_bias import KVBias
from sinkctl.sinks.none import NoSink
from sinkctl.sinks.score_bias import ScoreBias
from sinkctl.sinks.scratch.alibi import Alibi
from sinkctl.sinks.scratch.fixed_kv_bias import FixedKVBias
from sinkctl.sinks.scratch.kernel import Kernel
from sinkctl.sinks.scratch.normaliser import Normaliser
from sinkctl.sinks.scratch.positions import Positions
from sinkctl.sinks.scratch.sigsoftmax import SigSoftmax
from sinkctl.sinks.sigmoid import Sigmoid
from sinkctl.sinks.sink_logit import SinkLogit
from sinkctl.sinks.sink_token import SinkToken
from sinkctl.sinks.softmax1 import Softmax1
from sinkctl.sinks.softpick import Softpick
from sinkctl.sinks.value_bias import ValueBias

AnySink = Annotated[
    SinkLogit
    | Softmax1
    | SinkToken
    | KeyBias
    | KVBias
    | ValueBias
    | ScoreBias
    | Gate
    | Sigmoid
    | Elu
    | Softpick
    | ClippedSoftmax
    | NoSink
    | Normaliser
    | SigSoftmax
    | Kernel
    | FixedKVBias
    | Alibi
    | Positions,
    Field(discriminator="kind"),
]
SINKS: dict[str, type[Sink]] = {
    sink.model_fields["kind"].default: sink
    for sink in (
        SinkLogit, Softmax1, SinkToken, KeyBias, KVBias, ValueBias, ScoreBias, Gate, Sigmoid, Elu, Softpick,
        ClippedSoftmax, NoSink, Normaliser, SigSoftmax, Kernel, FixedKVBias, Alibi, Positions,
    )
}  # fmt: skip
__all__ = ["SINKS", "AnySink", "LayerShape", "Sink"]
