"""What is said of an untrained start that is worse than nothing in the first token's place."""

RUIN = 4  # times the perplexity without anything in the first token's place
# Settings with which a model computes what it did.
HARMLESS = {
    "sink_logit": "--start exact", "gate": "--start exact", "value_bias": "--start zero",
    **dict.fromkeys(("sigmoid", "elu", "softpick", "clipped_softmax"), "--start zero --set sink.mix=0"),
}  # fmt: skip


def worse_than_nothing(mechanism: str, after: float, without: float) -> str:
    """What an untrained start is not to be used for, and the setting that leaves the model as it was."""
    destroyed = after > RUIN * without
    said = "This start destroys the model" if destroyed else "That is worse than nothing in the first token's place"
    harmless = f"; {HARMLESS[mechanism]} leaves the model as it was" if mechanism in HARMLESS else ""
    return f"{said}: do not use it untrained{harmless}, and --steps trains it."
