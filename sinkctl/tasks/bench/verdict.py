"""What a benchmark's numbers say, in words: which gates failed, and ours beside what would be run instead."""

from sinkctl.result.bench import OURS, BenchDetail, Change, Row
from sinkctl.result.bench_words import advantage, ours_beside, times
from sinkctl.result.compare import worse_by


def verdict(detail: BenchDetail) -> list[str]:
    """The gates, then a sentence a case that has peers."""
    return _gates(detail.changes) + [
        sentence for case in dict.fromkeys(row.case for row in detail.rows) for sentence in _beside(case, detail.rows)
    ]


def _gates(changes: list[Change]) -> list[str]:
    gated = [change for change in changes if change.limit is not None]
    failed = [change for change in gated if change.failed]
    total = f"{len(gated)} gate{'' if len(gated) == 1 else 's'}"
    if not failed:
        return [f"{total} hold{'s' if len(gated) == 1 else ''}."] if gated else []
    return [f"{len(failed)} of {total} failed.", *(f"{worse_by(change)}." for change in failed)]


def _beside(case: str, rows: list[Row]) -> list[str]:
    """stream at 4+252: 22.4× as fast as stock, 3.10× as fast as published."""
    of_case = [row for row in rows if row.case == case]
    pairs = [(ours_beside(row, of_case), row) for row in of_case if row.way != OURS]
    known = [(ours, peer, ratio) for ours, peer in pairs if ours is not None and (ratio := advantage(ours, peer))]
    first = next((row for row in of_case if any(row is ours for ours, _, _ in known)), None)
    if first is None:
        return []
    phrase = "{peer} takes {times} as much memory" if first.unit == "bytes" else "{times} as fast as {peer}"
    said = [phrase.format(peer=peer.way, times=times(ratio)) for ours, peer, ratio in known if ours is first]
    return [f"{case} at {first.label}: {', '.join(said)}."]
