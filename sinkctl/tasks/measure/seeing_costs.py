"""What the first token, the image and attention moved from the one to the other are worth to the text behind it.

N samples of one token row each, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sinkctl.kernels.column_sums import Visible
from sinkctl.metrics.masked_key import agreement, hide
from sinkctl.metrics.next_token import NextToken, Seen, decoded, next_token, predicted
from sinkctl.metrics.observe import run
from sinkctl.metrics.redistributed import FIRST, IMAGE, ToImage
from sinkctl.metrics.samples import Samples
from sinkctl.model.attention import attached
from sinkctl.model.handler import AttentionCall
from sinkctl.model.load import LoadedModel
from sinkctl.model.parts import attending_part
from sinkctl.result.measure import CostLine
from sinkctl.tasks.measure.input_set import InputSet
from sinkctl.tasks.measure.standard_error import ratio_error
from sinkctl.tasks.measure.variants import perplexity

MOVED = (0.5, 1.0)  # shares of the first token's attention


class Run(NamedTuple):
    nll: list[Tensor]  # of the text behind the image, a sample each
    last: list[Tensor]  # logits after it, [V]


def seeing_costs(
    shown: InputSet, loaded: LoadedModel, samples: int, told: Callable[[str, int], None], go_on: Callable[[], None]
) -> list[CostLine]:
    """At most `samples` of them; `told` of every pass and its tokens."""
    hidden = "hidden from text behind the image"
    variants: dict[str, tuple[str, Callable[[Samples, int], NextToken]]] = {
        "as it is": ("", lambda given, first: next_token(loaded.model, given, first=first)),
        "first key hidden from the text": (f"key 0 {hidden}", _hiding(loaded, lambda of_S: torch.tensor(0))),
        "image hidden": (f"every token of it {hidden}", _hiding(loaded, lambda of_S: (of_S == IMAGE).nonzero())),
    }
    if shown.groups[FIRST] is None:
        variants.pop("first key hidden from the text")
    for share in MOVED if shown.groups[FIRST] is not None else ():
        what = f"{100 * share:g} % of what text behind the image gives the first token given to the image, in all heads"
        variants[f"{100 * share:g} % moved from the first token to the image"] = (what, _moving(loaded, share))
    runs = {name: Run([], []) for name in variants}
    for number in range(min(samples, len(shown.samples))):
        given = shown.laid_out(number, 1, loaded.device, loaded.dtype)
        first = int(shown.asking[number].nonzero()[0]) - 1
        for name, (_, asked) in variants.items():
            found = asked(given, first)
            runs[name].nll.append(found.nll_NT[0].cpu())
            runs[name].last.append(found.last_NV[0].cpu())
            told(name, len(shown.samples[number]))
            go_on()
    plain = runs.pop("as it is")
    return [_line(name, variants[name][0], plain, run) for name, run in runs.items()]


@torch.no_grad()
def text_sees_ahead(shown: InputSet, loaded: LoadedModel) -> bool:
    """Whether text behind the image sees later text (a prefix, as PaliGemma's): it is then not predicted, but read."""
    given, found = shown.laid_out(0, 1, loaded.device, loaded.dtype), []
    place_T = torch.arange(len(shown.samples[0]), device=loaded.device)
    query_t1 = place_T[shown.asking[0].to(loaded.device), None]

    def keep(call: AttentionCall, pattern: Visible) -> None:
        found.append(bool((pattern.mask(query_t1, place_T) & (place_T > query_t1)).any()))

    decoded(loaded.model, given, keep=keep)
    return any(found)


def _hiding(loaded: LoadedModel, keys: Callable[[Tensor], Tensor]) -> Callable[[Samples, int], NextToken]:
    def asked(given: Samples, first: int) -> NextToken:
        also: Seen = hide(keys(given.groups.of_NS[0].cpu()).flatten().tolist(), first + 1)
        return next_token(loaded.model, given, also, first)

    return asked


def _moving(loaded: LoadedModel, share: float) -> Callable[[Samples, int], NextToken]:
    def asked(given: Samples, first: int) -> NextToken:
        with attached(attending_part(loaded.model, given.inputs), ToImage(given, share=share)):
            output = run(loaded.model, given)
        output.last_hidden_state = output.last_hidden_state[:, first:]
        return predicted(loaded.model, output, given.inputs["input_ids"][:, first:], 1)

    return asked


def _line(name: str, what: str, plain: Run, changed: Run) -> CostLine:
    before, after = (torch.cat(run.nll)[None] for run in (plain, changed))
    kl, top5 = (float(x.mean()) for x in agreement(torch.stack(plain.last), torch.stack(changed.last)))
    same = len({len(nll) for nll in plain.nll}) == 1 and len(plain.nll) > 1
    error = ratio_error(torch.stack(changed.nll) - torch.stack(plain.nll)) if same else None
    return CostLine(
        name=name, what=f"{what}; {before.numel():,} next tokens of {len(plain.nll)} samples", tokens=before.numel(),
        perplexity=_of(after), baseline=_of(before), error=error, kl=kl, top5=top5,
    )  # fmt: skip


def _of(nll: Tensor) -> float | None:
    return perplexity(NextToken(nll, nll[:0], 0))
