"""What a run is held against: a saved result, or another version in the same run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sinkctl.errors import BaselineError
from sinkctl.result.baseline import mismatch, read
from sinkctl.result.bench import BenchDetail
from sinkctl.result.compare import Gate
from sinkctl.small_file import is_pipe

Mismatch = Literal["fail", "warn", "skip"]


@dataclass
class Held:
    """What a run is held against: a saved result, or another version in the same run."""

    baseline: str | None = None  # a file
    against: str | None = None  # a git ref
    commit: str | None = None  # which it stands for
    saved: BenchDetail | None = None
    on_mismatch: Mismatch = "fail"
    notes: list[str] = field(default_factory=list)
    skipped: bool = False

    @classmethod
    def settled(
        cls, baseline: str | None, against: str | None, on_mismatch: Mismatch, kept: dict[str, Any], gated: list[str]
    ) -> "Held":
        """What is asked for, else what a resumed run began with (`kept`); `gated` names rows that it must have.

        BaselineError where the baseline cannot be read, or lacks one.
        """
        if baseline is None and against is None and kept:
            baseline, against, on_mismatch = kept["baseline"], kept["against"], kept["on_mismatch"]
        held = cls(baseline, against, on_mismatch=on_mismatch)
        if baseline is not None:
            held.saved = read(baseline).bench
            known = {row.name for row in held.saved.rows}
            held._differs([f"{name} is not in it" for name in gated if name not in known])
        return held

    @property
    def name(self) -> str | None:
        """As reports have it; None where nothing is held against."""
        return self.baseline if self.commit is None else f"{self.against} ({self.commit[:12]})"

    def dump(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        kept = dict(baseline=self.baseline, against=self.against, commit=self.commit, on_mismatch=self.on_mismatch)
        if self.baseline is None or is_pipe(self.baseline):
            return kept | {"piped": self.baseline is not None}
        return kept | {"baseline": str(Path(self.baseline).resolve())}

    def check(self, now: BenchDetail, gates: Sequence[Gate] = ()) -> None:
        """BaselineError, a note, or no comparison at all where the saved run is no match."""
        self._differs([] if self.saved is None or self.skipped else mismatch(now, self.saved, gates))

    def _differs(self, different: list[str]) -> None:
        if not different:
            return
        said = f"{self.name}: the baseline is of another run: {'; '.join(different)}"
        if self.on_mismatch == "fail":
            raise BaselineError(f"{said}. Make a new one with --save-baseline, or see --on-mismatch and --against")
        self.skipped = self.on_mismatch == "skip"
        self.notes = [f"{said}. {'Not compared' if self.skipped else 'Compared all the same'}."]
