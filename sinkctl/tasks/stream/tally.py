"""Everything that a pass over texts finds but the losses themselves: in bounded memory, as JSON, and added up.

A run over many texts is done in parts, each with a tally of its own; in the order of the texts they make one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sinkctl.result.stream import MemorySample
from sinkctl.tasks.stream.passages import Passages
from sinkctl.tasks.stream.summary import Curve, Thinned, Total


class Tally:
    """Sums, curves, places and passages of the tokens scored so far."""

    def __init__(self, labels: Sequence[str], passages: Passages):
        """`passages`, empty, says which are looked for."""
        self.totals = {label: Total() for label in labels}
        self.common = {label: Total() for label in labels}
        self.curves = {label: Curve() for label in labels}
        self.cache_bytes = dict.fromkeys(labels, 0)  # most that was held
        self.passages = passages
        self.file_starts: list[tuple[int, int, int]] = []  # (index of the token, file, byte)
        self.marks, self.memory = Thinned(), Thinned()
        self.scored, self.texts, self.longest, self.peak_bytes = 0, 0, 0, 0
        self.spent: dict[str, float] = {}  # seconds, by launch and process
        self.sink_rate: float | None = None
        self._in_text = 0  # tokens of the text under way

    def begin(self) -> None:
        """A text begins, with nothing before it."""
        self.texts, self._in_text = self.texts + 1, 0
        self.passages.cut()

    def add(
        self, losses: dict[str, np.ndarray], ids: np.ndarray, byte_offsets: np.ndarray, lines: np.ndarray,
        files: np.ndarray,
    ) -> None:  # fmt: skip
        """Take the losses of consecutive tokens of one text, and where they stand."""
        shared = np.isfinite(np.stack(list(losses.values()))).all(0)
        for label, nll in losses.items():
            self.totals[label].add(nll)
            self.common[label].add(nll[shared])
            self.curves[label].add(self._in_text, nll)
        self.passages.add(next(iter(losses.values())), ids, byte_offsets, lines, files)
        last = self.file_starts[-1][1] if self.file_starts else -1
        for start in np.flatnonzero(np.diff(files, prepend=last)):
            self.file_starts.append((self.scored + int(start), int(files[start]), int(byte_offsets[start])))
        if len(files):
            self.marks.offer((self.scored, int(files[0]), int(byte_offsets[0])))
        self.scored, self._in_text = self.scored + len(ids), self._in_text + len(ids)
        self.longest = max(self.longest, self._in_text)

    def join(self, later: "Tally", files: int) -> None:
        """Add what the texts after these gave, whose files are counted from `files`."""
        for label in self.totals:
            self.totals[label].join(*vars(later.totals[label]).values())
            self.common[label].join(*vars(later.common[label]).values())
            self.curves[label].join(later.curves[label])
            self.cache_bytes[label] = max(self.cache_bytes[label], later.cache_bytes[label])
        self.passages.join(later.passages.ended(), self.scored, files)
        self.file_starts += [(self.scored + index, files + file, byte) for index, file, byte in later.file_starts]
        for index, file, byte in later.marks.items:
            self.marks.offer((self.scored + index, files + file, byte))
        for sample in later.memory.items:
            self.memory.offer(sample.model_copy(update={"tokens": self.scored + sample.tokens}))
        self.scored, self.texts = self.scored + later.scored, self.texts + later.texts
        self.longest, self.peak_bytes = max(self.longest, later.longest), max(self.peak_bytes, later.peak_bytes)
        for who, seconds in later.spent.items():
            self.spend(who, seconds)
        self.sink_rate = later.sink_rate if self.sink_rate is None else self.sink_rate

    def spend(self, who: str, seconds: float) -> None:
        """Count the time of a launch and process, `LAUNCH.PROCESS`."""
        self.spent[who] = self.spent.get(who, 0.0) + seconds

    @property
    def seconds(self) -> float:
        """From beginning to end: of processes side by side the longest time counts, of launches the sum."""
        launches: dict[str, float] = {}
        for who, seconds in self.spent.items():
            launch = who.partition(".")[0]
            launches[launch] = max(launches.get(launch, 0.0), seconds)
        return sum(launches.values())

    def to_json(self) -> dict[str, Any]:
        own = ("cache_bytes", "file_starts", "scored", "texts", "longest", "peak_bytes", "spent", "sink_rate")
        return {name: getattr(self, name) for name in own} | {
            "totals": {label: vars(total) for label, total in self.totals.items()},
            "common": {label: vars(total) for label, total in self.common.items()},
            "curves": {label: curve.to_json() for label, curve in self.curves.items()},
            "passages": self.passages.to_json(),
            "marks": vars(self.marks),
            "memory": vars(self.memory) | {"items": [sample.model_dump() for sample in self.memory.items]},
            "in_text": self._in_text,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], looked_for: Passages) -> "Tally":
        """`looked_for` is of the same kind as those that were kept."""
        passages = Passages(looked_for.by, looked_for.top, looked_for.warm, data["passages"])
        tally, data = cls(list(data["totals"]), passages), dict(data)
        for label in tally.totals:
            tally.totals[label] = Total(**data["totals"][label])
            tally.common[label] = Total(**data["common"][label])
            tally.curves[label] = Curve.from_json(data["curves"][label])
        tally.marks, tally.memory = Thinned(**data["marks"]), Thinned(**data["memory"])
        tally.memory.items = [MemorySample(**item) for item in tally.memory.items]
        tally.file_starts = [tuple(start) for start in data["file_starts"]]
        tally._in_text = data["in_text"]
        for name in ("cache_bytes", "scored", "texts", "longest", "peak_bytes", "spent", "sink_rate"):
            setattr(tally, name, data[name])
        return tally
