"""Forward passes over samples, each no longer than what is taken away asks for.

N samples of one length, T tokens.
"""

from collections.abc import Callable

from torch import Tensor

from sinkctl.metrics.continued import Kept, continued, same
from sinkctl.metrics.massive_cost import Output, resumed
from sinkctl.metrics.next_token import Keep, NextToken, Seen, Told, next_token
from sinkctl.metrics.observe import blocks_of
from sinkctl.metrics.samples import laid_out
from sinkctl.model.load import LoadedModel


class Passes:
    """What is scored is the same in all of them: the last `scored` tokens' successors.

    Only what a change reaches is run: the tokens after a hidden key against the keys and values that those before
    left, the blocks above a replaced activation on what the ones below gave. Whether a model allows that is tried on
    its first sample; where it does not, all of it runs.
    """

    def __init__(
        self, loaded: LoadedModel, scored: int, progress: Callable[[str, int], None], go_on: Callable[[], None]
    ):
        """`progress` is told what was run, and how many tokens; `go_on` is called before each pass."""
        self.loaded, self.model, self.scored = loaded, loaded.model, scored
        self.progress, self.go_on = progress, go_on
        self.choices: dict[str, str] = {}
        self._tried = self._alone = self._above = False

    def whole(
        self, name: str, ids_NT: Tensor, also: Seen | None, told: Told | None = None, keep: Keep | None = None,
        share: float = 1.0,
    ) -> NextToken:  # fmt: skip
        """All tokens through all blocks, or, where those below are stood in for, through a share of them."""
        self.go_on()
        samples, first = laid_out(list(ids_NT.cpu()), self.loaded.device), ids_NT.shape[1] - self.scored
        found = next_token(self.model, samples, also, first, told, keep)
        self.progress(name, round(share * ids_NT.numel()))
        return found

    def after(self, name: str, ids_NT: Tensor, kept: Kept, also: Seen, first: int | None = None) -> NextToken:
        """As `whole` where the tokens before `first` (else those kept) are as they were."""
        if not self._alone:
            return self.whole(name, ids_NT, also)
        self.go_on()
        first = kept.first if first is None else min(first, kept.first)
        found = continued(self.model, ids_NT.to(self.loaded.device), kept, also, first)
        self.progress(name, ids_NT[:, first:].numel())
        return found

    def above(self, name: str, ids_NT: Tensor, output: Output, layer: int, also: Seen | None) -> NextToken:
        """As `whole` where the blocks up to `layer` give what they gave."""
        if not self._above or output.layer != layer:
            return self.whole(name, ids_NT, also)
        share = 1 - (layer + 1) / len(blocks_of(self.model))
        with resumed(self.model, output):
            return self.whole(name, ids_NT, also, share=share)

    def try_out(self, ids_NT: Tensor, kept: Kept | None, output: Output, also: Seen | None, seen: NextToken) -> None:
        """Once: on the first sample of a batch with nothing taken away, and what came of it."""
        if self._tried:
            return
        self._tried, one_NT = True, ids_NT[:1].to(self.loaded.device)
        if kept is not None:
            self._alone, why = same(self.model, lambda: continued(self.model, one_NT, kept.of([0])), seen)
            self.choices["hidden keys"] = f"{'second halves alone' if self._alone else 'whole samples'}: {why}"
        if output.layer < 0:
            return

        def run() -> NextToken:
            return self.above("nothing taken away", one_NT, output.of(slice(1)), output.layer, also)

        self._above = True
        self._above, why = same(self.model, run, seen)
        said = f"blocks above layer {output.layer} alone" if self._above else "all blocks"
        self.choices["replaced activations"] = f"{said}: {why}"
