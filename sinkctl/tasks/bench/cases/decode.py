"""Generation: milliseconds a step, the cache full."""

from math import inf

from torch import Tensor

from sinkctl.cache.policies import Recompute, SinkWindow
from sinkctl.errors import ModelError
from sinkctl.model.compiled import worth_compiling
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import auto_chunk
from sinkctl.model.threads import one_thread
from sinkctl.recipe.bench import DecodeCase
from sinkctl.recipe.sizes import Size
from sinkctl.result.bench import OURS, Work
from sinkctl.tasks.bench.costs import in_stream, token_flops, weight_bytes
from sinkctl.tasks.bench.peers import attempted, fitting
from sinkctl.tasks.bench.peers.published import Published
from sinkctl.tasks.bench.peers.stock import CompiledStaticCache, GrowingCache
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.bench.way import Group, Way
from sinkctl.tasks.generate.decoder import Decoder
from sinkctl.tasks.generate.recompute import RecomputeDecoder
from sinkctl.tasks.generate.sampling import Sampler
from sinkctl.tasks.generate.settle import can_capture

# Steps a call, so that what begins and ends one does not show.
STEPS = 8


def group(case: DecodeCase, subject: Subject, size: Size) -> Group:
    loaded, rows = subject.loaded, size["rows"]
    policy = SinkWindow(sinks=size["sinks"], window=size["window"])
    choices: dict[str, str] = {}
    decoder = _decoder(case, loaded, policy, rows, choices)
    ids_BT = subject.ids(rows * (policy.reach + 1)).view(rows, -1)
    decoder.feed(list(ids_BT), max(1, auto_chunk(loaded)[0] // rows))
    ways = {
        OURS: Way(lambda: [decoder.step() for _ in range(STEPS)], _work(loaded, policy, rows, decoder.bytes_held()))
    }
    prompt_BT = ids_BT.to(loaded.device)
    peers = {
        "stock": lambda: _stock(loaded, policy, prompt_BT),
        "static": lambda: _static(loaded, policy, prompt_BT),
        "published": lambda: _published(loaded, policy, prompt_BT),
        "recompute": lambda: _recompute(loaded, policy, ids_BT, choices),
    }
    ways |= {peer: attempted(peers[peer]) for peer in case.peers}
    return Group("ms_per_token", ways, "stock" if "stock" in ways else None, choices=choices | decoder.choices)


def _decoder(case: DecodeCase, loaded: LoadedModel, policy: SinkWindow, rows: int, choices: dict[str, str]) -> Decoder:
    graph, why = can_capture(loaded, policy)
    if case.graph is True and not graph:
        raise ModelError(f"a step cannot be captured: {why}; set graph to auto")
    if case.graph == "auto":
        choices["graph"] = f"{'on' if graph else 'off'}: {why}"
    else:
        graph = case.graph
    compiled = case.compile
    if compiled == "auto":
        compiled, why = worth_compiling(loaded.model, loaded.device, inf)
        choices["compile"] = "on: over many steps it pays" if compiled else f"off: {why}"
    if one_thread(loaded.model, rows):
        choices["threads"] = "1 for sinkctl's steps: the model's products are too small to share"
    return Decoder(loaded, policy, _greedy(loaded, rows), rows=rows, graph=graph, compiled=compiled)


def _greedy(loaded: LoadedModel, rows: int) -> Sampler:
    return Sampler(rows, loaded.device, greedy=True)


def _work(loaded: LoadedModel, policy: SinkWindow, rows: int, cache_bytes: int) -> Work:
    """Of a call: every step reads the weights and the whole cache."""
    flops = rows * token_flops(loaded, in_stream(policy.reach), policy.reach)
    return Work(count=STEPS, flops=STEPS * flops, read=STEPS * (weight_bytes(loaded.model) + cache_bytes))


def _stock(loaded: LoadedModel, policy: SinkWindow, prompt_BT: Tensor) -> Way:
    stock = GrowingCache(loaded.model, prompt_BT[:, 1:])
    return Way(lambda: stock.run(STEPS), _work(loaded, policy, len(prompt_BT), stock.bytes_held))


def _static(loaded: LoadedModel, policy: SinkWindow, prompt_BT: Tensor) -> Way:
    static = CompiledStaticCache(loaded.model, prompt_BT[:, 1:], STEPS)
    return Way(static.run, _work(loaded, policy, len(prompt_BT), static.bytes_held))


def _published(loaded: LoadedModel, policy: SinkWindow, prompt_BT: Tensor) -> Way:
    published = Published(loaded, policy)
    ids_B = published.fill(prompt_BT).argmax(-1)

    def run() -> Tensor:
        nonlocal ids_B
        for _ in range(STEPS):
            ids_B = published.step(ids_B).argmax(-1)
        return ids_B

    return Way(run, _work(loaded, policy, len(prompt_BT), published.bytes_held()), once=True)


def _recompute(loaded: LoadedModel, policy: SinkWindow, ids_BT: Tensor, choices: dict[str, str]) -> Way:
    length, steps = fitting(policy, loaded), max(1, STEPS // len(ids_BT))
    rule = Recompute(sinks=0, window=length - 1)
    decoder = RecomputeDecoder(loaded, rule, _greedy(loaded, len(ids_BT)), rows=len(ids_BT))
    decoder.feed(list(ids_BT), 1)
    choices["recompute"] = f"windows of {length} tokens"
    return Way(lambda: [decoder.step() for _ in range(steps)], Work(count=steps), once=True)
