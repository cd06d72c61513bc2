"""A run over texts on their own in parts, and which process does which of them: by sizes on disk, nothing is read."""

from collections.abc import Sequence

# Files in a row are one part while together they are no larger than a 64th of the whole, but for these bounds in bytes
# and in parts: a part costs some milliseconds and files, and one of many small texts should fill forward passes.
SHARE, LEAST, MOST, PARTS = 64, 1 << 14, 1 << 20, 4096


def parts_of(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """(first, end) of the files of each part, in order, from the bytes of every file.

    It does not depend on how many processes there are, so neither does what shares a forward pass, nor any loss.
    """
    whole = sum(sizes)
    size_of_part = max(LEAST, min(MOST, whole // SHARE), whole // PARTS)
    found, first, held = [], 0, 0
    for number, size in enumerate(sizes):
        if number > first and held + size > size_of_part:
            found.append((first, number))
            first, held = number, 0
        held += size
    return [*found, (first, len(sizes))]


def shared_out(sizes: Sequence[int], processes: int) -> list[list[int]]:
    """Which parts each process does, from their bytes: the largest first, each to whom has least by then."""
    shares, loads = [[] for _ in range(processes)], [0] * processes
    for part in sorted(range(len(sizes)), key=lambda part: -sizes[part]):
        least = loads.index(min(loads))
        shares[least].append(part)
        loads[least] += sizes[part]
    return [sorted(share) for share in shares]
