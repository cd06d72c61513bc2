"""The sizes of a benchmark's cases, and what each kind measures. Importing this imports no torch."""

import re
from collections.abc import Callable
from itertools import product
from typing import Any

from sinkctl.cache.policies import Policy, SinkWindow, SlidingWindow
from sinkctl.cache.precision.settings import Precision
from sinkctl.errors import UsageError
from sinkctl.recipe import shorthand
from sinkctl.recipe.bench import (
    AnyCase,
    DecodeCase,
    KernelCase,
    MeasureCase,
    MemoryCase,
    PrefixCase,
    ProcessesCase,
    QualityCase,
    RetrievalCase,
    RoundedSettings,
    StartupCase,
    StreamCase,
    TasksCase,
    TrainCase,
)
from sinkctl.recipe.load import validate

Size = dict[str, int | float | str]
ALL = "all"  # the cache of a case's `dense`
FRONTS = ("nothing", "bos", "measured", "frequent", "greedy")  # what may stand in front of a text
ITSELF = "sinkctl"  # the way that is no peer
# Seconds of a command: the clock's, what the run itself says, and the parts of that.
STARTUP = ("seconds", "own", "imports", "loading", "preparing", "compiling", "first", "rest")
# What a kind measures, and what a threshold may name; lm-evaluation-harness says for itself.
MEASURED = {
    "stream": ("tokens_per_s", "added_memory"),
    "decode": ("ms_per_token", "added_memory"),
    "memory": ("peak_memory",),
    "processes": ("tokens_per_s", "efficiency"),
    "measure": ("tokens_per_s", "added_memory"),
    "train": ("tokens_per_s", "added_memory"),
    "kernel": ("ms", "added_memory"),
    "quality": ("perplexity",),
    "prefix": ("perplexity", "front_tokens", "massive_places", "largest_activation"),
    "retrieval": ("exact_match",),
    "startup": STARTUP,
}
BESIDE_FULL = ("bits_per_byte", "kl", "flips")  # of a quality case that asks for them
UNTIMED = (
    "memory",
    "processes",
    "quality",
    "prefix",
    "retrieval",
    "tasks",
    "startup",
)  # by the rounds of the ways, that is
FRESH = ("memory",)  # each size in a process of its own: a peak does not go down again


def sizes(case: AnyCase) -> dict[str, Size]:
    """Label → size, in order; UsageError where the case has none."""
    return SIZES[case.kind](case)


def way_of(case: AnyCase, size: Size) -> str:
    """Whose number a size gives, where it gives one alone: ours, or a peer's."""
    if case.kind != "quality" or "sinks" in size:
        return str(size.get("way", ITSELF))
    return "dense" if size["cache"] == ALL else str(size.get("policy", "recompute"))


def measured(case: AnyCase) -> tuple[str, ...]:
    """What a case measures; empty where lm-evaluation-harness says so for itself."""
    further = BESIDE_FULL if isinstance(case, QualityCase) and case.beside_full else ()
    if isinstance(case, PrefixCase):
        further = tuple(f"added_{kv}" for kv in case.kv)
    return MEASURED.get(case.kind, ()) + further


PINNED = (0, 4)  # sinks of the policies that choose what to evict


def policy_of(text: str) -> Policy:
    """A cache as a case names it, `4+252`, `dense`, `recompute:4+252`; UsageError for what is none."""
    data: dict[str, Any] = {"task": "generate", "policy": shorthand.policy(text)}
    return validate(data, f"caches: {text}").policy


def label_of(*words: str) -> str:
    """Names from outside as the label of a size: no dots, colons or spaces."""
    return ",".join(re.sub(r"[.:\s]+", "-", word) for word in words)


def _stream(case: StreamCase) -> dict[str, Size]:
    several = len(case.chunks) > 1
    return {
        f"{case.sinks}+{window}" + (f",chunk={chunk}" if several else ""): dict(
            sinks=case.sinks, window=window, chunk=chunk
        )
        for window, chunk in product(case.windows, case.chunks)
    }


def _decode(case: DecodeCase) -> dict[str, Size]:
    return {
        f"{case.sinks}+{window}" + (f",rows={rows}" if rows > 1 else ""): dict(
            sinks=case.sinks, window=window, rows=rows
        )
        for window, rows in product(case.windows, case.rows)
    }


def _memory(case: MemoryCase) -> dict[str, Size]:
    return {
        str(tokens) + ("" if way == ITSELF else f",{way}"): dict(
            tokens=tokens, way=way, sinks=case.sinks, window=case.window
        )
        for tokens in case.lengths
        for way in (ITSELF, *case.peers)
    }


def _processes(case: ProcessesCase) -> dict[str, Size]:
    return {str(count): {"processes": count} for count in case.processes}


def _measure(case: MeasureCase) -> dict[str, Size]:
    return {str(tokens): {"tokens": tokens} for tokens in case.lengths}


def _train(case: TrainCase) -> dict[str, Size]:
    return {str(tokens): {"tokens": tokens, "batch": case.batch} for tokens in case.lengths}


def _kernel(case: KernelCase) -> dict[str, Size]:
    return {str(tokens): {"tokens": tokens} for tokens in case.tokens}


def _quality(case: QualityCase) -> dict[str, Size]:
    """One entry a policy and precision; sinks that leave no window in a cache are left out."""
    whole = [(cache, sinks) for cache in case.caches for sinks in case.sinks if sinks < cache]
    found: dict[str, Size] = {}
    for (cache, sinks), kv in product(whole, case.kv):
        size = {"sinks": sinks, "window": cache - sinks, "cache": cache}
        if shorthand.bits(kv, f"{case.label}: kv") is None:
            found[f"{sinks}+{cache - sinks}"] = size
            continue
        for keep in case.kv_keep:
            rounded = size | {"kv": kv, "keep": keep}
            _check(case, kept_in(case, rounded))
            found[label_of(f"{sinks}+{cache - sinks}", kv, f"keep={keep}")] = rounded
    if not found:
        raise UsageError(f"{case.label}: {min(case.sinks)} sinks leave no window in a cache of {max(case.caches)}")
    if "dense" in case.peers:
        found["dense"] = {"cache": ALL}
    if "recompute" in case.peers:
        found |= {f"recompute-{cache}": {"cache": cache} for cache in case.caches}
    for kind in ("heavy_hitter", "random"):
        if kind in case.peers:
            pairs = [(cache, pinned) for cache in case.caches for pinned in PINNED if pinned < cache]
            found |= {f"{kind}-{p}+{cache - p}": {"policy": kind, "cache": cache, "pinned": p} for cache, p in pairs}
    return found


def _check(case: RoundedSettings, policy: Policy) -> None:
    try:
        policy.check()
    except UsageError as error:  # names the flags of one stream
        words = str(error).replace("--kv-recent", "kv_recent").replace("--kv-keep", "kv_keep")
        raise UsageError(f"{case.label}: {words}") from None


def precision_in(case: RoundedSettings, size: Size) -> Precision | None:
    """That of a size; None: in full."""
    if "kv" not in size:
        return None
    return Precision(bits=shorthand.bits(size["kv"]), keep=size["keep"], recent=case.kv_recent)


def kept_in(case: QualityCase, size: Size) -> Policy:
    """The policy of a size with `sinks`."""
    precision = precision_in(case, size)
    if not size["sinks"]:
        return SlidingWindow(window=size["window"], precision=precision)
    return SinkWindow(sinks=size["sinks"], window=size["window"], precision=precision)


def _prefix(case: PrefixCase) -> dict[str, Size]:
    """One entry a front; UsageError for a precision that is none, or is full."""
    for kv in case.kv:
        if shorthand.bits(kv, f"{case.label}: kv") is None:
            raise UsageError(
                f"{case.label}: kv {kv}: rounds nothing, and every front is scored in full anyway; leave it out"
            )
    return {front: {"front": front} for front in FRONTS[: 5 if case.greedy else 4]}


def behind(front: int, case: PrefixCase, kv: str | None) -> Policy:
    """So many first tokens in full, and a window, rounded where `kv` says how, recent tokens too."""
    bits = None if kv is None else shorthand.bits(kv, f"{case.label}: kv")
    precision = None if bits is None else Precision(bits=bits, recent=0, keep=f"first:{front}")
    return SinkWindow(sinks=front, window=case.cache - front, precision=precision)


def _retrieval(case: RetrievalCase) -> dict[str, Size]:
    """One entry a policy, precision and distance; UsageError names a policy that is none, or is never rounded."""
    found: dict[str, Size] = {}
    for cache, kv in product(case.caches, case.kv):
        keeps: tuple[str | None, ...] = case.kv_keep
        if shorthand.bits(kv, f"{case.label}: kv") is None:
            keeps = (None,)
        for keep, back in product(keeps, case.back):
            rounded = {} if keep is None else {"kv": kv, "keep": keep}
            _check(case, asked_of(case, size := {"policy": cache, "back": back} | rounded))
            words = [] if keep is None else [kv, f"keep={keep}"]
            found[label_of(cache, *words, f"back={back}")] = size
    return found


def asked_of(case: RetrievalCase, size: Size) -> Policy:
    """The policy of a size."""
    policy, precision = policy_of(size["policy"]), precision_in(case, size)
    if precision is None:
        return policy
    if policy.kind in shorthand.NEVER_ROUNDED:
        raise UsageError(f"{case.label}: kv {size['kv']}: what {policy.kind} keeps cannot be rounded; leave it out")
    return policy.model_copy(update={"precision": precision})


def _tasks(case: TasksCase) -> dict[str, Size]:
    """One entry a policy, task and length of text; UsageError names a policy that is none.

    A length is an entry of its own, as `limit` takes the first examples, and those of a task are sorted by length.
    """
    found: dict[str, Size] = {}
    for cache, task, length in product(case.caches, case.tasks, case.lengths or (None,)):
        if policy_of(cache):
            words, size = (cache, task), {"policy": cache, "task": task}
            if length is not None:
                words, size = (*words, str(length)), size | {"length": length}
            found[label_of(*words)] = size
    return found


def _startup(case: StartupCase) -> dict[str, Size]:
    pairs = product(case.commands, case.caches)
    return {f"{command},{caches}": {"command": command, "caches": caches} for command, caches in pairs}


SIZES: dict[str, Callable[..., dict[str, Size]]] = {
    "stream": _stream,
    "decode": _decode,
    "memory": _memory,
    "processes": _processes,
    "measure": _measure,
    "train": _train,
    "kernel": _kernel,
    "quality": _quality,
    "prefix": _prefix,
    "retrieval": _retrieval,
    "tasks": _tasks,
    "startup": _startup,
}
