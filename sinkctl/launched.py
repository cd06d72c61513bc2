"""Which of several processes this is, as torchrun and accelerate launch say it. Importing this imports no torch."""

import os


def processes() -> int:
    """How many there are, on all machines together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this one, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Its number among those of this machine."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def one_machine() -> bool:
    """Whether all of them run on this one, as far as the launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes())) == processes()


def first() -> bool:
    """Whether this is the one that speaks for all."""
    return rank() == 0
