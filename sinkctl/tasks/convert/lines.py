"""Which line of a conversion's tables is which."""

from collections.abc import Sequence

from sinkctl.result.convert import TEXTS_OWN, CheckpointLine, StreamedLine


def streamed(streams: Sequence[StreamedLine], checkpoint: str, sinks: str) -> StreamedLine | None:
    """The checkpoint with so many tokens kept: "0+", "1+" or "4+"."""
    return next((line for line in streams if line.checkpoint == checkpoint and line.policy.startswith(sinks)), None)


def meant(streams: Sequence[StreamedLine], checkpoint: str) -> StreamedLine | None:
    """A checkpoint as it is meant: with its window alone, or with the token in front that it keeps."""
    kept = streamed(streams, checkpoint, "1+")
    in_front = kept is not None and not kept.first.startswith(TEXTS_OWN)
    return kept if in_front else streamed(streams, checkpoint, "0+")


def fed(checkpoints: Sequence[CheckpointLine], checkpoint: str) -> CheckpointLine | None:
    """A checkpoint as its tokenizer feeds it, which comes before its bare form."""
    return next((line for line in checkpoints if line.checkpoint == checkpoint), None)
