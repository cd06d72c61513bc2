"""What is this process's of a measurement: some of the checkpoints, or some heads of every one; alone, everything."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sinkctl.clock import carry
from sinkctl.errors import ResumeError, SinkctlError, UsageError
from sinkctl.launched import first, processes
from sinkctl.result.environment import environment
from sinkctl.result.store import CHECKPOINT, ENVIRONMENT, STATE, RunFolder
from sinkctl.tasks.measure.checkpoint import Kept
from sinkctl.tasks.stream.crew import Crew


class Share:
    """Checkpoints go round among the processes, each of which keeps what it finds; the first one puts all together."""

    def __init__(self, checkpoints: int, heads: bool):
        """`heads`: the processes have every model between them. UsageError where some would have nothing to do."""
        several = processes() if not heads else 1
        if several > checkpoints:
            what = "one checkpoint" if checkpoints == 1 else f"{checkpoints} checkpoints"
            raise UsageError(
                f"{several} processes: {what}, which at most as many processes share out; "
                "--parallel tensor has them share the heads of each"
            )
        self._crew = Crew() if several > 1 else None
        self.keeps, self.speaks = first() or not heads, first()

    def own(self, checkpoints: Sequence[Any]) -> list[tuple[int, Any]]:
        """Those that are this process's, with their numbers."""
        rank, size = (0, 1) if self._crew is None else (self._crew.rank, self._crew.size)
        return list(enumerate(checkpoints))[rank::size]

    def begun(
        self, output: str | Path | None, resume: bool, recipe: dict[str, Any], files: list[list[Any]],
        holding: ExitStack,
    ) -> tuple[Kept, RunFolder | None]:  # fmt: skip
        """(what this process keeps, with what is known already; the run's folder, where it is this one's to write).

        `holding`: as long as that, no other run may begin or go on in the folder; of several processes the first one's.
        """
        whole = None if output is None else RunFolder(output)
        kept = Kept({}, {}, whole, recipe, files)
        if whole is None:
            return kept, None

        def make() -> None:
            if resume:
                RunFolder.unfinished(output, holding)
                return
            RunFolder.create(output, holding)
            whole.write_recipe(recipe)
            whole.write_json(ENVIRONMENT, environment())
            if self._crew is not None:  # so that the run can be gone on with, whichever process comes first
                kept.save()

        if self._crew is not None:
            self._crew.agreed(make)
        elif self.keeps:
            make()
        if resume:
            self._restore(kept, whole)
        if self._crew is not None and not self._crew.first:
            kept.folder = RunFolder(whole.path / STATE / f"process-{self._crew.rank}")
            kept.folder.path.mkdir(exist_ok=True)
        kept.folder = kept.folder if self.keeps else None
        return kept, whole if self.speaks else None

    def _restore(self, kept: Kept, whole: RunFolder) -> None:
        """Everything that any process of the run before had kept."""
        others = sorted(path.parents[1] for path in (whole.path / STATE).glob(f"process-*/{STATE}/{CHECKPOINT}"))
        for number, folder in enumerate([whole, *map(RunFolder, others)]):
            data, tensors = folder.load_state()
            before = data.get("recipe", {})
            changed = next((name for name in kept.recipe if before.get(name) != kept.recipe[name]), None)
            if changed is not None:
                raise ResumeError(f"{whole.path}: {changed} is not what the run was started with; start a new run")
            if data.get("files") != kept.files:
                raise ResumeError(f"{whole.path}: what it reads changed since the run was started; start a new run")
            if not number:
                carry(data["spent"])
            kept.parts |= data["parts"]
            kept.step = max(kept.step, data["step"])
            kept.arrays |= tensors
        if self._crew is not None:  # nobody writes anew while another still reads
            from torch import distributed

            distributed.barrier()

    def joined(self, found: list[Any], kept: Kept, resumed: Callable[[], str]) -> list[Any]:
        """In the first process what all of them found, and kept besides; in the others nothing of use."""
        if self._crew is None:
            return found
        from torch import distributed

        parts: list[Any] | None = [None] * self._crew.size if self._crew.first else None
        try:
            distributed.gather_object((found, kept.arrays), parts)
        except RuntimeError as error:
            raise SinkctlError(f"another process died; what all have measured is kept: {resumed()}") from error
        for _, arrays in parts or ():
            kept.arrays |= arrays
        return [each for own, _ in parts or () for each in own]
