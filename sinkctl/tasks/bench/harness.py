"""Our streams as a model of lm-evaluation-harness; importing this needs the `eval` extra. T tokens, V vocabulary."""

import atexit
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from difflib import get_close_matches
from functools import cache, cached_property
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sinkctl.cache.policies import Policy
from sinkctl.errors import ModelError, TextError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import auto_chunk
from sinkctl.tasks.bench.answers import Answers
from sinkctl.tasks.bench.watching import watched
from sinkctl.tasks.stream.scorers import scorer_for
from sinkctl.text import check_ids

LONGEST = 256  # tokens generated where a task does not say, as the harness has it
SEED = 1234  # the harness' own, which it sets once texts are made
RESAMPLES = 1000  # of bootstrapped standard errors


class SinkctlLM(TemplateLM):
    """A loaded model under a cache policy: texts are streamed whole, never cut to a context length.

    Special tokens are those the tokenizer adds. Before a text's first token, where something must stand there, is what
    `prefix` says: BOS, once, where the tokenizer puts it there, and not where it does not.
    """

    def __init__(self, loaded: LoadedModel, policy: Policy):
        """ModelError where the model has no tokenizer."""
        super().__init__()
        if loaded.tokenizer is None:
            raise ModelError(f"{loaded.name} has no tokenizer, so no task can be put to it; give a checkpoint instead")
        self.loaded, self.tokenizer = loaded, loaded.tokenizer
        self.policy, _ = policy.resolve(loaded.context)
        self._chunk, _ = auto_chunk(loaded)

    @property
    def eot_token_id(self) -> int | None:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        return self.prefix[0]

    @cached_property
    def prefix(self) -> tuple[int, str]:
        """(token id before a text's first token, why).

        The harness takes BOS wherever there is one. A converted checkpoint, or the control, would get back what was
        taken from it.
        """
        bos, end = self.loaded.bos_id, self.eot_token_id
        if self.loaded.uses_bos:
            return bos, "as the tokenizer puts it in front of a text"
        if end is not None and bos in (None, end):
            return end, "it parts one text from the next"
        line_break = self.tokenizer.encode("\n", add_special_tokens=False)
        if not line_break:
            raise ModelError(f"{self.loaded.name} has no BOS, end-of-sequence or line break token to put before a text")
        return line_break[-1], "an ordinary token, as the tokenizer puts nothing in front of a text"

    @property
    def tokenizer_name(self) -> str:
        return self.loaded.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """With the special tokens the tokenizer adds, unless the text brings BOS itself."""
        if add_special_tokens is None:
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.bos_token)
        ids = self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)
        check_ids(self.tokenizer, np.array(ids, np.int64), self.loaded.rows, "a text of the task")
        return ids

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """ln p of every token of each text, streamed: what `sinkctl stream` scores, in nats and summed."""
        texts = [self.tok_encode(request.args[0], add_special_tokens=False) for request in requests]
        return [-float(self._losses([self.prefix_token_id, *ids], len(ids)).sum()) for ids in texts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Go on from each context until a stop string, an end of sequence, or the longest a task allows."""
        asked = [request.args for request in requests]
        asked = [(self.tok_encode(text), normalize_gen_kwargs(given, LONGEST)) for text, given in asked]
        return Answers(self.loaded, self.policy, self._chunk).to(
            [(ids or [self.prefix_token_id], wanted) for ids, wanted in asked]
        )

    def _loglikelihood_tokens(self, requests: list, **_: Any) -> list[tuple[float, bool]]:
        found = []
        for _texts, context, continuation in requests:
            greedy: list[bool] = []
            losses_T = self._losses([*context, *continuation], len(continuation), greedy)
            found.append((-float(losses_T.sum()), all(greedy)))
        return found

    def _losses(self, ids: list[int], last: int, greedy: list[bool] | None = None) -> np.ndarray:
        """NLL of the `last` tokens of a text in nats, float64; `greedy` is told of each whether it is the likeliest."""
        ids_T = torch.tensor(ids)
        scorer = scorer_for(self.loaded, self.policy, bos=ids[0] == self.loaded.bos_id)
        edge = len(ids) - 1 - last
        for ids_C, target_C in self._blocks(ids_T[: edge + 1]):
            scorer.step(ids_C, target_C)
        with nullcontext() if greedy is None else watched(scorer, lambda *said: _likeliest(*said, greedy)):
            losses = [scorer.step(ids_C, target_C) for ids_C, target_C in self._blocks(ids_T[edge:])]
        losses_T = np.concatenate([np.empty(0), *losses])
        if not np.isfinite(losses_T).all():
            raise ModelError(f"{self.policy.label}: a text of {len(ids):,} tokens is longer than the model's context")
        return losses_T

    def _blocks(self, ids_T: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens and those after them, a chunk at a time."""
        if len(ids_T) < 2:
            return iter(())
        return zip(ids_T[:-1].split(self._chunk), ids_T[1:].split(self._chunk), strict=True)


def _likeliest(logits_TV: Tensor, target_T: Tensor, greedy: list[bool]) -> None:
    greedy.extend((logits_TV.argmax(-1) == target_T).tolist())


def evaluate(
    lm: SinkctlLM, task: str, include: str | None, limit: int | None, length: int | None = None
) -> dict[str, Any]:
    """What the harness says of one task or group: `results` and `higher_is_better`, by metric."""
    try:
        with _quiet():
            manager, asked = _tasks(include, lm.tokenizer, length), _loaded(task, include, lm.tokenizer, length)
            found = simple_evaluate(
                lm, tasks=[asked], limit=limit, task_manager=manager, bootstrap_iters=RESAMPLES, log_samples=False
            )
    except (OSError, ValueError, LookupError, ImportError, ArithmeticError) as error:  # of data sets and task files
        said = " ".join(str(error).split())[:300]
        raise TextError(f"tasks: {task}: {type(error).__name__}: {said}") from error
    return {
        "results": found["results"][task],
        "higher_is_better": found["higher_is_better"].get(task, {}),
        "samples": found["n-samples"].get(task, {}).get("effective"),
    }


@cache
def _loaded(name: str, include: str | None, tokenizer: PreTrainedTokenizerBase, length: int | None) -> Any:
    """The harness' task or group, which every cache is given: one that makes its texts takes minutes for them."""
    manager = _tasks(include, tokenizer, length)
    if name not in manager.all_tasks:
        close = get_close_matches(name, manager.all_tasks, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "`lm_eval ls tasks` lists them"
        raise UsageError(f"tasks: {name}: no such task; {hint}")
    if name == "ruler_vt" and length is not None:
        _check_tracking(tokenizer, length)
    random.seed(SEED)  # texts that a task makes are those of every other run
    np.random.seed(SEED)
    found = manager.load([name])
    either = found["groups"] | found["tasks"]
    if name not in either:
        raise UsageError(f"tasks: {name} stands for several tasks; name them: {', '.join(found['tasks'])}")
    return either[name]


def _check_tracking(tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    """UsageError where the harness would look for texts for ever, deaf to Ctrl-C, as none is so short."""
    from lm_eval.tasks.ruler import vt_utils

    shortest, _ = vt_utils.generate_input_output(num_noises=10, num_chains=1, num_hops=4)
    least = len(tokenizer(shortest).input_ids) + 530  # a worked example comes in front, and 30 are left for the answer
    if length < least:
        raise UsageError(f"lengths: {length}: ruler_vt makes no texts so short; give at least {least} tokens")


@cache
def _tasks(include: str | None, tokenizer: PreTrainedTokenizerBase, length: int | None) -> TaskManager:
    """Tasks of the harness and of a folder; an index of 14,000 files, so made once.

    Those that make their own texts measure them by the model's tokenizer, which they load from a folder.
    """
    folder = TemporaryDirectory(prefix="sinkctl-")
    atexit.register(folder.cleanup)
    tokenizer.save_pretrained(folder.name)
    own = {"tokenizer": folder.name} | ({} if length is None else {"max_seq_lengths": [length]})
    return TaskManager(include_path=include, metadata=own)


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness prints, and bootstraps in forked processes: neither suits a worker that answers on its output."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before
