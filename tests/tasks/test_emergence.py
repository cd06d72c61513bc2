"""The script of the emergence rows: what it runs, keeps, and says of the sign of an effect."""

import json
import math
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from row_queues import rows_fail

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import emergence
import emergence_judged
from emergence_judged import loaded_and_samples, sink_1_behind_token, with_prefix
from emergence_rows import GROUPS, PUBLISHED, SAME, STUDENT, Chance, Published, Seeds, chance_of, compared, published
from emergence_table import by_number, print_markdown, rank_correlation

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}


def test_a_published_row_is_a_recipe_and_so_is_its_baseline():
    rows = set(emergence.chosen([]))
    assert set(PUBLISHED) | {row.against for row in PUBLISHED.values()} <= rows


def test_a_row_stands_in_one_group_of_the_table():
    for row in emergence.chosen([]):
        groups = [name for name, patterns in GROUPS.items() if any(fnmatch(row, pattern) for pattern in patterns)]
        assert len(groups) == 1, (row, groups)


def test_rows_that_are_another_have_its_recipe():
    for row, other in SAME.items():
        assert emergence.load(emergence.find(emergence.ROWS + row)) == emergence.load(
            emergence.find(emergence.ROWS + other)
        )


def test_rows_run_in_the_order_asked_for_the_baseline_first():
    assert emergence.chosen(["relu", "prefix_*", "softmax"]) == ["softmax", "relu", "prefix_32", "prefix_8"]


def test_a_row_may_name_its_own_seed():
    def wanted(*only, seeds=1):
        return emergence.wanted_of(SimpleNamespace(only=list(only), first_seed=0, seeds=seeds))

    rows = [("alibi", 2), ("relu", 0), ("gelu", 0), ("relu", 1), ("gelu", 1)]
    assert wanted("alibi@2", "relu", "gelu", seeds=2) == rows
    assert wanted("alibi@1", "decay_0p5@1", "softmax@1") == [("softmax", 1), ("alibi", 1)]  # decay_0p5 is softmax
    assert wanted("softmax", "softmax@0") == [("softmax", 0)]
    with pytest.raises(SystemExit, match="--only alibi@one: no seed behind the @; give a number, as in softmax@1"):
        wanted("alibi@one")


def test_an_effect_is_the_difference_from_its_own_baseline():
    assert published("lr_double").direction() == pytest.approx(32.23 - 18.18)
    assert published("decay_0p5").direction() == pytest.approx(41.08 - 18.18)
    assert published("window_64").direction() == -1  # told in words
    assert published("gelu").effect() == pytest.approx(17.86 - 18.18)
    assert published("gelu").direction() == 0  # they say that there is none
    assert published("power_2").direction() is None


def test_a_sign_is_compared_unless_chance_may_be_the_whole_effect():
    baseline, chance = Seeds((20.0, 24.0)), Chance(2.0, 5)  # 2.571 · 2 · √(1/seeds + 1/2): 6.3 beside one seed, 5.1
    up, down, none = Published(sign=1), Published(sign=-1), Published(sign=0)
    for row, theirs, said in (
        (Seeds((29.0,)), up, "agree"),
        (Seeds((29.0,)), down, "not"),
        (Seeds((28.0,)), up, "within chance"),
        (Seeds((28.0, 28.0)), up, "agree"),  # the same, told from chance by a second seed
        (Seeds((28.0,)), none, "agree (none)"),
        (Seeds((29.0,)), none, "not"),
        (Seeds((29.0,)), Published(), "–"),
        (None, up, "not run"),
    ):
        assert compared(theirs, row, baseline, chance) == said
    assert compared(up, Seeds((29.0,)), None, chance) == "not run"
    assert compared(up, Seeds((29.0,)), baseline, None) == "no seeds of rows with a sink"


def test_chance_is_students_of_the_variance_within_rows():
    """Beside the density of Student's t itself, and rows worked out by hand: 2, 8 and 2 squares, 1, 2 and 1 free; one
    without a sink does not vary, and says nothing of those that have one."""
    rows = [(5.0, 7.0), (40.0, 42.0, 44.0), (5.0,), (7.0, 9.0), (1.0, 1.0)]
    found = chance_of([Seeds(row) for row in rows])
    assert (found.deviation, found.freedom) == (pytest.approx(math.sqrt(12 / 4)), 4)
    assert found.of(Seeds((1.0,)), Seeds((1.0, 2.0, 3.0))) == pytest.approx(2.776 * math.sqrt(3) * math.sqrt(4 / 3))
    assert chance_of([Seeds((10.0,)), Seeds((20.0,)), Seeds((1.0, 2.0))]) is None
    for free, bound in enumerate(STUDENT, 1):
        x = torch.linspace(-bound, bound, 200001, dtype=torch.float64)
        scale = math.gamma((free + 1) / 2) / math.gamma(free / 2) / math.sqrt(free * math.pi)
        inside = torch.trapezoid(scale * (1 + x**2 / free) ** (-(free + 1) / 2), x)
        assert inside.item() == pytest.approx(0.95, abs=1e-4)


def test_rows_of_the_table_stand_in_the_order_of_their_numbers():
    rows = ["decay_1", "decay_0p5", "decay_0p001", "decay_0", "batch_256", "batch_32", "gate_value", "gate"]
    said = ["batch_32", "batch_256", "decay_0", "decay_0p001", "decay_0p5", "decay_1", "gate", "gate_value"]
    assert sorted(rows, key=by_number) == said


def test_ranks_are_correlated_by_spearmans_formula():
    """1 − 6 Σd² / (n³ − n) without ties; with them, as Pearson's of the mean ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4."""
    assert rank_correlation([3.0, 1.0, 2.0, 9.0], [0.1, 0.2, 0.3, 5.0]) == pytest.approx(1 - 6 * (4 + 1 + 1) / 60)
    assert rank_correlation([1.0, 5.0, 5.0, 7.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_a_rate_of_fewer_queries_is_compared_with_one_of_as_few_and_not_ranked(tmp_path, capsys):
    row = {"seed": 0, "machine": "", "valid_loss": 3.5, "massive_ratio": 40.0, "kurtosis": 50.0, "seconds": 60.0}
    row |= {"sink_star": None, "massive": 1.0, "tokens_per_second": 1.0}
    for name, rate in (("softmax", 30.0), ("relu", 20.0), ("gelu", 10.0), ("window_16", 34.0), ("window_64", 4.0)):
        kept = row | {"row": name, "sink_1": rate, "probes": [{"sink_percent": 0.0}, {"sink_percent": rate}]}
        (tmp_path / f"{name}-0.json").write_text(json.dumps(kept))

    def lines():
        print_markdown(["softmax", "relu", "gelu", "window_16", "window_64"], tmp_path)
        printed = capsys.readouterr().out.splitlines()
        signs.append(next(line for line in printed if line.startswith("Signs: ")))
        return {line.split("`")[1]: line for line in printed if line.startswith("| `")}

    signs: list[str] = []
    without = lines()
    assert "34.0 %" in without["window_16"]
    assert without["window_16"].endswith("|  | not measured |")
    assert "-26.0" in without["window_64"]
    again = row | {"row": "softmax", "seed": 1, "sink_1": 34.0, "sink_1_of_16": 60.0, "sink_1_of_32": 50.0}
    (tmp_path / "softmax-1.json").write_text(json.dumps(again | {"probes": [{"sink_percent": 34.0}] * 2}))
    spread = 12.706 * math.sqrt(8) * math.sqrt(1 + 1)  # of 30 and 34 %, and of one seed of either over 16 queries
    assert lines()["window_16"].endswith(f"| -26.0 ± {spread:.1f} | within chance |")
    assert signs[-1] == "Signs: 2 agree (none), 2 within chance."
    print_markdown(["softmax", "relu", "gelu", "window_16"], tmp_path)
    assert "over 3 rows" in capsys.readouterr().out


def test_rows_keep_their_ratio_to_the_baseline_at_any_size(monkeypatch, tmp_path):
    texts = ["--train-text", __file__, "--held-out", __file__]
    sizes = ["--steps", "40", "--batch", "8", "--length", "32"]
    monkeypatch.setattr(sys, "argv", ["", *texts, "--folder", str(tmp_path), *sizes])
    options = emergence.flags()
    half, wide, few = (emergence.recipe_of(name, 3, options) for name in ("lr_half_long", "batch_256", "unique_5m"))
    assert (half.steps, half.training.lr, half.training.seed) == (80, 2e-3, 3)
    assert (wide.steps, wide.training.batch) == (20, 16)
    assert few.training.unique == round(5e6 * 40 * 8 * 32 / (2000 * 128 * 512))


def test_finished_rows_are_kept_and_not_run_again(book, tmp_path, monkeypatch, capsys):
    text, held, folder = tmp_path / "train.txt", tmp_path / "held.txt", tmp_path / "rows"
    text.write_text(book[:8000])
    held.write_text(book[8000:50000])

    def small(path):
        recipe = load(path)
        return recipe.model_copy(update={"scratch": recipe.scratch | SMALL})

    load = emergence.load
    monkeypatch.setattr(emergence, "load", small)
    said = ["", "--train-text", str(text), "--held-out", str(held), "--folder", str(folder), "--device", "cpu"]
    said += ["--steps", "2", "--batch", "2", "--length", "16", "--tokens", "300", "--only", "softmax", "lr_half"]
    monkeypatch.setattr(sys, "argv", said)
    emergence.main()
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ["lr_half-0.json", "softmax-0.json"]
    row = json.loads((folder / "lr_half-0.json").read_text())
    del row["recipe"]["evaluation"]["digits"]  # as a row of before that field was there
    (folder / "lr_half-0.json").write_text(json.dumps(row))
    assert row["recipe"]["training"]["lr"] == 2e-3
    assert {"sink_1_of_16", "sink_1_of_32"} <= set(json.loads((folder / "softmax-0.json").read_text())) - set(row)
    assert row["valid_loss"] == pytest.approx(row["probes"][-1]["loss"], abs=0.05)  # judged in half precision at most
    shown = capsys.readouterr().out
    assert "baseline" in shown
    assert "no seeds" in shown

    def fails(*args, **kwargs):
        raise AssertionError("runs again")

    monkeypatch.setattr(emergence.sinkctl, "convert", fails)
    emergence.main()
    assert capsys.readouterr().out.splitlines()[-3:] == shown.splitlines()[-3:]
    monkeypatch.setattr(sys, "argv", [*said, "decay_0p1", "--table", "--markdown"])
    emergence.main()
    shown = capsys.readouterr().out
    assert (
        f"| `lr_half` | 1 | {row['seconds'] / 60:.1f} | {row['valid_loss']:.3f} |  | {row['sink_1']:.1f} % | 0, 0 |"
        in shown
    )  # of two steps
    assert "Not run: `decay_0p1`." in shown
    monkeypatch.setattr(sys, "argv", [*said, "--steps", "4"])
    row["recipe"]["training"]["gone"] = 1  # a field of before
    (folder / "lr_half-0.json").write_text(json.dumps(row))
    with pytest.raises(SystemExit, match="is of other settings; name another --folder, or remove it"):
        emergence.main()


def test_files_that_are_no_rows_are_named_before_any_row_runs(tmp_path, monkeypatch, capsys):
    said = ["", "--folder", str(tmp_path), "--only", "softmax", "relu"]
    monkeypatch.setattr(emergence, "run", lambda *_: pytest.fail("a row runs"))

    def refused(match, *more):
        monkeypatch.setattr(sys, "argv", [*said, *more])
        with pytest.raises(SystemExit, match=match):
            emergence.main()

    refused("2", "--table")
    assert "no finished row in it; name the one where they are kept" in capsys.readouterr().err
    (tmp_path / "relu-notes.json").write_text("kept by hand")  # no seed
    row = tmp_path / "relu-1.json"
    for half, match in (
        ('{"row": "relu", "pro', r"relu-1.json: is no row \(.*\); rem"),
        ("[]", "no row of this"),
        ('{"row": "relu", "seed": 1, "probes": []}', "no 'machine'"),
    ):
        row.write_text(half)
        refused(match, "--table")
        refused(match, "--train-text", __file__, "--held-out", __file__)
    row.write_text(json.dumps({"row": "gate", "settings": {}}))  # of the table of retrofits
    refused("it has no 'probes'; name another --folder, or remove it", "--table")


def test_a_row_that_is_not_there_is_told_the_nearest():
    for only, hint in (
        (["sofmax"], "--only sofmax: no such row; did you mean softmax?"),
        (["softmax,relu"], "--only softmax,relu: no such row; names go apart by spaces"),
        (["xyz@1"], "--only xyz: no such row; --list prints them"),
    ):
        with pytest.raises(SystemExit) as error:
            emergence.chosen(only)
        assert str(error.value) == hint


@pytest.mark.parametrize("workers", ["1", "2"])
def test_rows_that_fail_are_told_of_in_the_exit_code(tmp_path, monkeypatch, capsys, workers):
    said = ["", "--train-text", __file__, "--held-out", __file__, "--folder", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*said, "--workers", workers, "--only", "softmax", "lr_half"])
    monkeypatch.setattr(emergence, "run", lambda *_: {"error": "no such text"})
    rows_fail(emergence, monkeypatch, capsys)


@pytest.fixture
def stored(demo, book, tmp_path, monkeypatch):
    """(folder of the built-in model, options that name a text to judge it by, by a few samples)."""
    monkeypatch.setattr(emergence_judged, "SINK_SAMPLES", 12)
    (tmp_path / "held.txt").write_text(book[:8000])
    demo.model.save_pretrained(tmp_path / "model")
    demo.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model", SimpleNamespace(device="cpu", held_out=str(tmp_path / "held.txt"))


def test_sink_1_behind_a_sink_token_is_of_the_token_after_it(stored, monkeypatch):
    """Head by head; the built-in model's BOS stands for the sink token, and little is left for the token after it."""
    monkeypatch.setattr(emergence_judged, "EPSILON", 0.03)
    model, options = stored
    loaded, ids_NT = loaded_and_samples(model, 12, 65, options)
    with torch.no_grad():
        maps = [loaded.model(ids_T[None], output_attentions=True).attentions for ids_T in ids_NT]
    second = [head_TS[1:, 1].sum() / 64 > 0.03 for each in maps for map_NHTS in each for head_TS in map_NHTS[0]]
    share = torch.stack(second).double().mean().item()
    assert sink_1_behind_token(model, options) == pytest.approx(100 * share, abs=0.1)
    assert 0.01 < share < 0.99  # or the test would show nothing


def test_a_prefix_row_is_judged_with_its_prefix_in_sight(stored):
    """Token by token, of one sample: what maps and losses are under that mask."""
    model, options = stored
    found = with_prefix(model, 8, options)
    loaded, ids_NT = loaded_and_samples(model, 12, 64, options)
    shown = torch.ones(64, 64, dtype=torch.bool).tril()
    shown[:, :8] = True
    assert ids_NT[:, 0].eq(loaded.bos_id).all()
    nll, first, any_of = [], [], []
    for ids_T in ids_NT:
        out = loaded.model(ids_T[None], attention_mask=-1e9 * (~shown)[None, None].float(), output_attentions=True)
        nll += [-out.logits[0, t].log_softmax(-1)[ids_T[t + 1]].item() for t in range(7, 63)]
        for map_HTS in out.attentions:
            alpha_HS = map_HTS[0].sum(1) / 64
            first += (alpha_HS[:, 0] > 0.3).tolist()
            any_of += (alpha_HS[:, :8] > 0.3).any(-1).tolist()
    assert found["valid_loss"] == pytest.approx(sum(nll) / len(nll), rel=1e-4)
    assert found["sink_1"] == pytest.approx(100 * sum(first) / len(first), abs=0.1)
    assert found["sink_star"] == pytest.approx(100 * sum(any_of) / len(any_of), abs=0.1)
    assert found["sink_star"] >= found["sink_1"] > 0


def test_in_windows_the_first_token_is_judged_by_the_queries_that_see_it(stored, monkeypatch):
    """Query by query, of the built-in model with windows of 12: query t sees keys t − 11 to t."""
    monkeypatch.setattr(emergence_judged, "EPSILON", 0.15)
    folder, options = stored
    config = folder / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"model_type": "mistral", "architectures": None, "sliding_window": 12}))
    loaded, ids_NT = loaded_and_samples(folder, 12, 24, options)
    first, oldest = [], []
    with torch.no_grad():
        for ids_T in ids_NT:
            for map_NHTS in loaded.model(ids_T[None], output_attentions=True).attentions:
                for head_TS in map_NHTS[0]:
                    assert head_TS[12:, 0].eq(0).all()
                    first.append(sum(head_TS[t, 0].item() for t in range(12)) / 12 > 0.15)
                    oldest.append(sum(head_TS[t, t - 11].item() for t in range(12, 24)) / 12 > 0.15)
    found = emergence_judged.in_windows(folder, 12, options)
    assert found["sink_1"] == pytest.approx(100 * sum(first) / len(first), abs=0.1)
    assert found["sink_star"] == pytest.approx(100 * sum(oldest) / len(oldest), abs=0.1)
    assert found["sink_1"] > found["sink_star"] > 0


def test_the_baseline_is_judged_by_as_few_queries_as_small_windows_see_the_first_token(stored):
    """Query by query, of the built-in model, which has no window."""
    folder, options = stored
    loaded, ids_NT = loaded_and_samples(folder, 12, 32, options)
    with torch.no_grad():
        maps = [
            map_NHTS for ids_T in ids_NT for map_NHTS in loaded.model(ids_T[None], output_attentions=True).attentions
        ]
    sinks = [sum(head_TS[t, 0].item() for t in range(16)) / 16 > 0.3 for map_NHTS in maps for head_TS in map_NHTS[0]]
    share = 100 * sum(sinks) / len(sinks)
    assert emergence_judged.in_windows(folder, 16, options)["sink_1"] == pytest.approx(share, abs=0.1)
    assert 50 < share < 100


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--train-text", "nosuch.txt", "--held-out", __file__], "nosuch.txt: no such file; name a text"),
        (["--table"], "no such folder; name the one where finished rows are kept"),
        (["--steps", "0"], "--steps: 0: give a whole number from 1 on"),
        (["--workers", "-1"], "--workers: -1: give a whole number from 1 on"),
        (["--first-seed", "9223372036854775808"], "--first-seed: 9223372036854775808: give a whole number from 0 on"),
        (["--device", "gpu"], "--device: gpu: give auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_what_flags_say_wrongly_is_said_before_any_row(monkeypatch, tmp_path, capsys, more, words):
    monkeypatch.setattr(sys, "argv", ["", "--folder", str(tmp_path / "rows"), *more])
    with pytest.raises(SystemExit, match="2"):
        emergence.main()
    assert words in capsys.readouterr().err
