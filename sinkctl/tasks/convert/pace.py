"""How much a conversion does, in tokens of a plain forward pass."""

from dataclasses import dataclass

from sinkctl.model.load import LoadedModel
from sinkctl.result.convert import CONTROL, CONVERTED, ORIGINAL, START
from sinkctl.tasks.convert.evaluate import judged
from sinkctl.tasks.convert.settle import Settled
from sinkctl.tasks.pace import STREAMED

# What a token costs beside one of a plain forward pass, roughly: of a sample that calibrates; trained on.
CALIBRATED, TRAINED = 1.5, 4.0
CANDIDATES = 10  # for the row of a sink token, about
# Ways a checkpoint is streamed, one more where it has a token in front.
STREAMS = {ORIGINAL: 3, START: 1, CONVERTED: 2, CONTROL: 2}


@dataclass(frozen=True)
class Work:
    """Of each part of a conversion."""

    calibrating: float
    training: float  # of one checkpoint
    trainings: int
    judging: dict[str, float]  # by checkpoint

    @property
    def whole(self) -> float:
        return self.calibrating + self.training * self.trainings + sum(self.judging.values())

    @classmethod
    def of(cls, settled: Settled, loaded: LoadedModel) -> "Work":
        """As far as it can be told before the tokenizer is settled."""
        recipe, sink, plan = settled.recipe, settled.recipe.sink, settled.plan
        calibrating = CALIBRATED * settled.calibration if sink.measured and sink.kind != "sink_token" else 0.0
        if sink.kind == "sink_token" and sink.start == "match" and not loaded.uses_bos:
            calibrating = CANDIDATES * STREAMED * 4 * settled.window
        labels = [CONVERTED] + [CONTROL] * (plan is not None and plan.controlled)
        if recipe.scratch is None:
            labels += [ORIGINAL] + [START] * (plan is not None)
        kept = sink.kind == "sink_token" or (loaded.uses_bos and not sink.replaces_first)
        judging = {}
        for label in labels:
            front = loaded.uses_bos if label == ORIGINAL else kept
            shown, samples = 1 + (front and label == ORIGINAL), recipe.evaluation.samples * settled.length
            rounded = len(recipe.evaluation.kv_bits) * (0 if label == START else 3 if front or label == ORIGINAL else 1)
            streams = STREAMS[label] + (front and label != ORIGINAL)
            run = judged(streams, rounded, settled.held_out, shown, samples)
            judging[label] = run if settled.least else 0.0
        if plan is None:
            return cls(calibrating, 0.0, 0, judging)
        both = plan.controlled and plan.settings.trained != "new"
        return cls(calibrating, TRAINED * plan.steps * plan.tokens, 2 if both else 1, judging)
