"""Time a token at the Llama-2-7B shape in bf16, random weights made on the device, beside the floor and baselines.

    python benchmarks/decode_7b.py [--windows 1020 2044 4092] [--rows 1 8 32] [--baselines]

The floor is every weight (the embedding table aside) and the whole cache read once at the copy rate measured in the
same run. Ways of one size are interleaved; medians over rounds. Baselines, at one row: the stock model's own decode
with as many tokens in its cache; the published streaming recipe (raw keys joined, all of them rotated and cut, every
token, in eager attention); re-encoding the whole window for every token. Prints a table last.
"""

import argparse
import statistics

import torch
from stream_7b import SHAPE, build, copy_rate, seconds
from torch import Tensor
from transformers import DynamicCache

from sinkctl.cache.policies import Recompute, SinkWindow
from sinkctl.kernels.rotate.reference import rotate
from sinkctl.model.attention import attached
from sinkctl.model.handler import AttentionCall, Handler
from sinkctl.tasks.generate.decoder import Decoder
from sinkctl.tasks.generate.recompute import RecomputeDecoder
from sinkctl.tasks.generate.sampling import Sampler

SINKS = 4


def greedy(rows: int) -> Sampler:
    return Sampler(rows, torch.device("cuda"), temperature=0, top_k=None, top_p=1.0, seed=0)


def prompts(rows: int, tokens: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(3, SHAPE["vocab_size"], (tokens,), generator=draw) for _ in range(rows)]


def ring(loaded, window: int, rows: int, compiled: bool):
    """A step of sinkctl's own decoder, its cache full."""
    decoder = Decoder(loaded, SinkWindow(sinks=SINKS, window=window), greedy(rows), rows=rows, graph=True,
                      compiled=compiled)  # fmt: skip
    decoder.feed(prompts(rows, window + SINKS + 1), 4096 if rows < 8 else 1024)
    return decoder.step, decoder.bytes_held()


def stock(loaded, window: int, rows: int):
    """The stock model with its own cache of as many tokens, which here grows by the few steps that are timed."""
    past, model = DynamicCache(config=loaded.model.config), loaded.model
    tokens = torch.stack(prompts(rows, window + SINKS)).cuda()
    with torch.no_grad():
        for start in range(0, tokens.shape[1], 1024):
            model.model(input_ids=tokens[:, start : start + 1024], past_key_values=past, use_cache=True)

    @torch.no_grad()
    def step() -> None:
        model(input_ids=tokens[:, :1], past_key_values=past, use_cache=True).logits.argmax(-1)

    return step


class Published(Handler):
    """A full cache under StreamingLLM as its authors' code has it (Xiao et al. 2023, github.com/mit-han-lab)."""

    def __init__(self, loaded, window: int):
        self.window, self.layers = window, loaded.layers(window + SINKS)
        shape = (1, SHAPE["num_key_value_heads"], SINKS + window, SHAPE["hidden_size"] // SHAPE["num_attention_heads"])
        self.kept = {
            id(facts.module): [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
            for facts in self.layers
        }
        self.table = self.layers[0].rotation.table(range(SINKS + window + 1), self.kept[id(self.layers[0].module)][0])

    def attend(self, call: AttentionCall) -> Tensor:
        kept = self.kept[id(call.module)]
        k, v = (torch.cat(pair, dim=2) for pair in zip(kept, (call.k_BGTD, call.v_BGTE), strict=True))
        cos, sin = self.table
        q = rotate(call.q_BHTD, cos[-1:], sin[-1:], start=0, interleaved=False)
        score = q @ rotate(k, cos, sin, start=0, interleaved=False).mT * call.scale
        self.kept[id(call.module)] = [torch.cat([x[:, :, :SINKS], x[:, :, -self.window :]], dim=2) for x in (k, v)]
        return score.float().softmax(-1).to(v.dtype) @ v


def published(loaded, window: int):
    handler, token = Published(loaded, window), torch.ones(1, 1, dtype=torch.int64, device="cuda")
    zero = torch.zeros_like(token)

    @torch.no_grad()
    def step() -> None:
        with attached(loaded.model, handler):
            logits = loaded.model(input_ids=token, position_ids=zero, attention_mask=token, use_cache=False).logits
        logits.argmax(-1)

    return step


def recomputing(loaded, window: int):
    window = min(window, SHAPE["max_position_embeddings"] - SINKS - 1)
    decoder = RecomputeDecoder(loaded, Recompute(sinks=SINKS, window=window), greedy(1))
    decoder.feed(prompts(1, window + SINKS + 1), 1)
    return decoder.step


def timed(ways: dict, rounds: int = 5) -> dict[str, list[float]]:
    """Milliseconds a step: a median over rounds, in which the ways take turns; slow ways take single steps."""
    times = {name: [] for name in ways}
    for step in ways.values():  # captures, compiles, warms up
        for _ in range(2):
            step()
    for _ in range(rounds):
        for name, step in ways.items():
            steps = 1 if name == "recompute" else 10

            def some(step=step, steps=steps) -> None:
                for _ in range(steps):
                    step()

            times[name].append(1e3 * seconds(some, 1) / steps)
    return times


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--windows", type=int, nargs="*", default=[1020, 2044, 4092])
    arguments.add_argument("--rows", type=int, nargs="*", default=[1, 8, 32])
    arguments.add_argument("--baselines", action="store_true")
    options = arguments.parse_args()
    copy, loaded = copy_rate(), build()
    weights = sum(p.numel() for name, p in loaded.model.named_parameters() if "embed" not in name) * 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {copy / 1e12:.2f} TB/s copy")
    print(f"S={SINKS}  window  rows  way               ms/token   floor  of floor   tokens/s  spread")
    for window in options.windows:
        for rows in options.rows:
            ways = {}
            both = (("graph, compiled", True), ("graph", False))
            for name, compiled in both[: 1 if rows * window > 100_000 else 2]:  # two such rings do not fit
                ways[name], held = ring(loaded, window, rows, compiled)
            if options.baselines and rows == 1:
                ways |= {
                    "stock decode": stock(loaded, window, rows), "published recipe": published(loaded, window),
                    "recompute": recomputing(loaded, window),
                }  # fmt: skip
            floor = 1e3 * (weights + held) / copy
            for name, samples in timed(ways).items():
                ms, spread = statistics.median(samples), max(samples) / min(samples) - 1
                shown = f"{ms:8.3f}  {floor:6.2f}  {floor / ms:8.1%}  {rows * 1e3 / ms:9,.0f}  {spread:6.1%}"
                print(f"{window:11d}  {rows:4d}  {name:16s}  {shown}", flush=True)
            del ways
            torch._dynamo.reset()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
