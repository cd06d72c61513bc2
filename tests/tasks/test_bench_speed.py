"""What the speed cases of a benchmark run: peers are right before they are fast, and floors are what is counted."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from sinkctl.cache.policies import SinkWindow
from sinkctl.errors import ModelError
from sinkctl.model.memory import process_peak
from sinkctl.recipe.bench import DecodeCase, MemoryCase, StreamCase
from sinkctl.recipe.schema import BenchRecipe
from sinkctl.recipe.sizes import sizes
from sinkctl.tasks.bench.cases import decode, memory, stream
from sinkctl.tasks.bench.costs import weight_bytes
from sinkctl.tasks.bench.peers.published import Published
from sinkctl.tasks.bench.peers.stock import CompiledStaticCache, GrowingCache, piece_losses
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.stream.scorers import BlockScorer

POLICY = SinkWindow(sinks=4, window=28)


def subject(shape: str | None = None) -> Subject:
    return Subject(BenchRecipe(shape=shape, cases=(StreamCase(),), model={"device": "cpu", "dtype": "float32"}))


@pytest.fixture(scope="module")
def real() -> Subject:
    """The built-in model."""
    return subject()


@pytest.fixture(scope="module")
def tiny() -> Subject:
    return subject("tiny")


def test_labels_say_what_sizes_differ_in():
    assert list(sizes(StreamCase(windows=(28, 60)))) == ["4+28", "4+60"]
    assert list(sizes(StreamCase(chunks=("auto", 64)))) == ["4+252,chunk=auto", "4+252,chunk=64"]
    assert sizes(StreamCase(sinks=0))["0+252"] == {"sinks": 0, "window": 252, "chunk": "auto"}
    assert list(sizes(DecodeCase(rows=(1, 8)))) == ["4+252", "4+252,rows=8"]
    assert sizes(MemoryCase(lengths=(64,), peers=("dense",))) == {
        "64": {"tokens": 64, "way": "sinkctl", "sinks": 4, "window": 252},
        "64,dense": {"tokens": 64, "way": "dense", "sinks": 4, "window": 252},
    }


def test_pieces_lose_what_the_stock_model_loses_on_each_alone(real, monkeypatch):
    model, ids = real.loaded.model, real.ids(3 * 20 + 1)
    monkeypatch.setattr("sinkctl.tasks.bench.peers.stock.LOGITS", 2 * 20 * 4096)  # two rows at once, then one
    found = piece_losses(model, ids[:-1].view(3, 20), ids[1:].view(3, 20))
    for row in range(3):
        piece = ids[20 * row : 20 * row + 21]
        with torch.no_grad():
            nll = cross_entropy(model(input_ids=piece[None, :-1]).logits[0], piece[1:], reduction="none")
        torch.testing.assert_close(found[row], nll)


def test_the_published_recipe_loses_what_the_scorer_does(real):
    """Token by token, from an empty cache until long after it is full; both count places in the cache alike."""
    ids = real.ids(121)
    expected = BlockScorer(real.loaded, POLICY).step(ids[:-1], ids[1:])
    found = Published(real.loaded, POLICY).score(ids[:-1], ids[1:])
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=2e-4, rtol=0)

    prompted = Published(real.loaded, POLICY)  # the cache filled by one prompt, as when it is timed
    prompted.fill(ids[None, : POLICY.reach + 1])
    after = prompted.score(ids[POLICY.reach + 1 : -1], ids[POLICY.reach + 2 :])
    torch.testing.assert_close(after, found[POLICY.reach + 1 :], atol=2e-4, rtol=0)


def test_growing_and_static_caches_choose_what_generate_chooses_however_often(real):
    model, ids_BT = real.loaded.model, real.ids(64).view(2, 32)
    expected = model.generate(
        ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=7, min_new_tokens=7, do_sample=False
    )
    growing, static = GrowingCache(model, ids_BT), CompiledStaticCache(model, ids_BT, 6)
    for _ in range(2):  # `generate` chooses the first from the prompt
        assert torch.equal(growing.run(6), expected[:, 33:])
        assert torch.equal(static.run(), expected[:, 33:])


def test_floors_of_scoring_are_the_products_that_are_counted(tiny):
    case = StreamCase(windows=(28,), chunks=(64,), peers=("stock", "tokens", "published", "recompute"))
    made = stream.group(case, tiny, sizes(case)["4+28"])
    assert list(made.ways) == ["sinkctl", *case.peers]
    assert made.yardstick == "stock"
    counted, floor = {}, {}
    for name, way in made.ways.items():
        assert sum(len(torch.as_tensor(losses).view(-1)) for losses in way.run()) == way.work.count
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            way.run()
        counted[name] = counter.get_total_flops() / way.work.count
        floor[name] = way.work.flops / way.work.count
    a_key = 2 * 2 * 4 * 16 * 2  # 2 layers, 4 heads of 16, a product with the key and one with the value
    expected = {
        "published": floor["sinkctl"],
        # The fused attention of torch's CPU operator, which ours calls, is not among what is counted.
        "sinkctl": floor["sinkctl"] - 33 * a_key,
        "tokens": floor["sinkctl"] - 33 * a_key,
        # Plain products fill the whole square of a piece of 33, of which a causal pass needs 17 keys a query.
        "stock": floor["stock"] + (33 - 17) * a_key,
        "recompute": floor["recompute"] + 33 * (33 - 17) * a_key,
    }
    assert floor["published"] == floor["tokens"] == floor["sinkctl"]
    assert made.ways["stock"].work.count == 2 * 33
    assert counted == pytest.approx(expected, rel=1e-3)  # angles of the rotation: places × frequencies, where counted


@pytest.mark.parametrize("shape", [None, "tiny"])
def test_a_step_reads_every_matrix_but_the_input_embedding(shape):
    model = subject(shape).loaded.model
    read = sum(parameter.nbytes for parameter in model.parameters())
    if not model.config.tie_word_embeddings:
        read -= model.get_input_embeddings().weight.nbytes
    assert weight_bytes(model) == pytest.approx(read, rel=5e-3)  # the norms' vectors are left out


@pytest.mark.parametrize("rows", [1, 3])
def test_every_way_of_generation_takes_the_same_steps_each_call(tiny, rows):
    case = DecodeCase(windows=(28,), rows=(rows,), peers=("stock", "static", "published", "recompute"))
    (size,) = sizes(case).values()
    made = decode.group(case, tiny, size)
    assert list(made.ways) == ["sinkctl", *case.peers]
    assert made.yardstick == "stock"
    for way in made.ways.values():
        way.run(), way.run()
    facts = tiny.loaded.layers(32)
    token = rows * sum(f.kv_heads * (f.width + f.value_width) for f in facts) * 4
    held = {name: way.work.read / way.work.count - weight_bytes(tiny.loaded.model)
            for name, way in made.ways.items() if way.work.read}  # fmt: skip
    tokens = {name: size / token for name, size in held.items()}
    assert tokens == pytest.approx({"sinkctl": 33, "stock": 32, "static": 40, "published": 32})
    assert {"graph", "compile", "threads", "recompute"} <= made.choices.keys()


def test_dense_scoring_holds_every_token_and_a_stream_does_not(tiny):
    case = MemoryCase(window=28, lengths=(2500,), peers=("dense",))
    read = {}
    for size in sizes(case).values():
        (reading,) = memory.group(case, tiny, size).readings
        assert reading.value > reading.detail["weights_bytes"]
        read[reading.way] = reading.detail["cache_bytes"]
    token = 2 * 2 * (16 + 16) * 4  # layers, key/value heads, widths, bytes
    assert read == {"sinkctl": 32 * token, "dense": 2500 * token}


def test_a_peer_that_cannot_be_built_says_so_when_it_is_run(tiny, monkeypatch):
    case = StreamCase(windows=(28,), chunks=(64,), peers=("published",))
    monkeypatch.setattr("sinkctl.tasks.bench.peers.published._plain", lambda facts: False)
    made = stream.group(case, tiny, sizes(case)["4+28"])
    made.ways["sinkctl"].run()
    with pytest.raises(ModelError, match="leave out peer 'published'"):
        made.ways["published"].run()


@pytest.mark.skipif(process_peak(reset=True) is None, reason="the peak cannot be counted anew here")
def test_the_peak_of_a_process_counts_what_was_given_back():
    before = process_peak(reset=True)
    held = torch.ones(1 << 25)  # 128 MiB
    del held
    assert process_peak() - before > 100 << 20
    assert process_peak(reset=True) < before + (100 << 20)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_way_runs_on_a_gpu_compiled_and_captured():
    on_gpu = Subject(BenchRecipe(cases=(StreamCase(),), model={"device": "cuda", "dtype": "float32"}))
    scoring = StreamCase(windows=(28,), chunks=(64,), peers=("stock", "tokens", "published", "recompute"))
    steps = DecodeCase(windows=(28,), peers=("stock", "static", "published", "recompute"))
    made = decode.group(steps, on_gpu, sizes(steps)["4+28"])
    assert made.choices["graph"].startswith("on")
    assert made.choices["compile"].startswith("on")
    for ways in (made.ways, stream.group(scoring, on_gpu, sizes(scoring)["4+28"]).ways):
        for way in ways.values():
            way.run(), way.run()
    model, ids_BT = on_gpu.loaded.model, on_gpu.ids(64).view(2, 32).to("cuda")
    growing, static = GrowingCache(model, ids_BT).run(6), CompiledStaticCache(model, ids_BT, 6)
    for _ in range(3):  # compiles, records, replays
        assert torch.equal(static.run(), growing)
