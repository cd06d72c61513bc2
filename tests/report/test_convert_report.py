"""A conversion in words: on a terminal, on a page, and as the model card of what was written."""

import io
import re
import sys
from html import unescape
from unittest.mock import MagicMock

import pytest
import yaml
from designed import ATTENDING, GATES, designed
from example_result import result
from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console
from test_html import Page

from sinkctl.report.console import render
from sinkctl.report.converted import KINDS, mechanism_words, refusing, rounded_table, stream_policy, stream_table
from sinkctl.report.html import html
from sinkctl.report.model_card import model_card
from sinkctl.report.printable import visible
from sinkctl.report.trained import loss_lines, loss_picture, probe_pictures, training_facts, training_line
from sinkctl.result.convert import (
    Calibration,
    CheckpointLine,
    ConvertDetail,
    Probe,
    RoundedLine,
    StartedLayer,
    StreamedLine,
    Training,
    TrainingCurve,
)
from sinkctl.result.schema import Result
from sinkctl.sinks import SINKS

HOSTILE = '[red]<script>alert("1")</script>[/red] | `x` ```\n\x1b[31m\u202e# _a_ **b** $c$'
STREAMS = [("original", "1+255", "BOS", 20.0), ("original", "0+256", "nothing", 30.0),
           ("converted", "0+256", "nothing", 20.5)]  # fmt: skip


def stream(*line) -> StreamedLine:
    return StreamedLine(**dict(zip(("checkpoint", "policy", "first", "perplexity"), line, strict=True)))


def calibration(**changes) -> Calibration:
    """Every layer but the first keeps a first token."""
    started = [StartedLayer(number=0)] + [
        StartedLayer(number=n, mass=0.5, score=-1.25, lse=2.5, begun={"logit": 2.75 + n, "bias": 0.0125})
        for n in range(1, 12)
    ]
    settings = dict(tokens=8224, samples=16, window=255, key_spread=2e-7, value_spread=3e-7, layers=started)
    return Calibration(**(settings | changes))


def detail(**changes) -> ConvertDetail:
    """A sink logit in a stock class."""
    settings = dict(
        mechanism="sink_logit", settings={"start": "match", "bos": "auto"}, model_type="granite_swa",
        stored="stock granite_swa: transformers has it", own_code=False, attention=["eager", "flex_attention"],
        dtype="bfloat16", sink_dtype="bfloat16", parameters=6180, files={"model.safetensors": 2**23}, bos="nothing",
        calibration=calibration(), window=256, held_out=4096, scored=2032, streams=[stream(*line) for line in STREAMS],
        checkpoints=[
            CheckpointLine(checkpoint="original", first="BOS", perplexity=18.0, sink_percent=76.5, alpha_max=0.875,
                           massive=42.1, massive_ratio=224.0, massive_largest=43.9,
                           massive_layers=2),
            CheckpointLine(checkpoint="converted", first="nothing", perplexity=18.25, kl=0.0741, sink_percent=0.0,
                           alpha_max=0.093, mechanism_mass=0.385, massive=9.28, massive_ratio=32.7,
                           massive_largest=9.61, massive_layers=0),
        ],
    )  # fmt: skip
    return ConvertDetail(**(settings | changes))


OWN_CODE = dict(mechanism="key_bias", own_code=True, attention=["eager", "sdpa"], model_type="sink_llama",
                stored="own code: no stock class has key_bias", sink_dtype="float32")  # fmt: skip


TRAINED_STREAMS = [
    ("original", "1+255", "BOS", 20.0), ("original", "4+252", "BOS", 19.9), ("original", "0+256", "nothing", 30.0),
    ("start", "0+256", "nothing", 20.5), ("converted", "4+252", "the text's first tokens", 18.02),
    ("converted", "0+256", "nothing", 18.0), ("control", "4+252", "the text's first tokens", 18.3),
    ("control", "0+256", "nothing", 18.4),
]  # fmt: skip


def training(**changes) -> Training:
    """400 steps of a checkpoint and its control, measured every 100."""
    losses = {"converted": [4.0] * 20 + [3.5, 3.3] * 180 + [3.0] * 20, "control": [4.0] * 20 + [3.5] * 380}
    curves = [TrainingCurve(checkpoint=c, loss=x, objective=x, gradient=x, seconds=200.0) for c, x in losses.items()]
    probes = [
        Probe(checkpoint=c, step=step, loss=3.9 - step / 1000, sink_percent=0.5, mechanism_mass=mass, massive=9.5,
              mechanism_percent=None if mass is None else 60.0 + step / 100, kurtosis=12.5)
        for c, mass in (("converted", 0.4), ("control", None)) for step in range(0, 401, 100)
    ]  # fmt: skip
    settings = dict(
        steps=400, batch=32, length=512, window=255, trained="all", trained_parameters=5_512_345,
        text="tales.txt, 3 files", text_tokens=13_107_200, epochs=0.5, optimizer="adamw", lr=3e-4,
        precision="bfloat16", processes=1, attention="sdpa: a window on a CPU", tokens_per_second=32768.0,
        curves=curves, probes=probes,
    )  # fmt: skip
    return Training(**(settings | changes))


def trained(model: str = "demo", **changes) -> Result:
    """A sink logit that was trained, its start and its control."""
    before, after = detail().checkpoints
    lines = [before, before.model_copy(update=dict(first="nothing", kl=0.3, sink_percent=0.1))]
    lines += [after.model_copy(update=dict(checkpoint=c, kurtosis=k)) for c, k in
              (("start", 31.0), ("converted", 22.5), ("control", 25.5))]  # fmt: skip
    streams = [stream(*line) for line in TRAINED_STREAMS]
    return converted(model, **(dict(streams=streams, checkpoints=lines, training=training()) | changes))


def converted(model: str = "demo", **changes) -> Result:
    """A whole result; `changes` are those of its detail."""
    found = result(task="convert", convert=detail(**changes), measurements=[], verdict=["Good: 95.0 % made good."])
    return found.model_copy(update={"model": found.model.model_copy(update={"name": model})})


def hostile() -> Result:
    """Foreign words wherever a result can have them."""
    streams = [stream(HOSTILE, HOSTILE, HOSTILE, 20.0), stream("original", "0+256", HOSTILE, None)]
    lines = [CheckpointLine(checkpoint=HOSTILE, first=HOSTILE, perplexity=18.0)] * 2
    begun = calibration().model_copy(update=dict(layers=[StartedLayer(number=1, mass=0.5, begun={HOSTILE: 1.0})]))
    words = dict.fromkeys(("mechanism", "model_type", "stored", "dtype", "sink_dtype", "bos"), HOSTILE)
    found = converted(
        HOSTILE, **words, settings={"start": HOSTILE, HOSTILE: HOSTILE}, attention=[HOSTILE], files={HOSTILE: 1},
        calibration=begun, streams=streams, checkpoints=lines,
    )  # fmt: skip
    curves = [TrainingCurve(checkpoint=HOSTILE, loss=[4.0, 3.0], objective=[], gradient=[], seconds=1.0)]
    probes = [Probe(checkpoint=HOSTILE, step=step, loss=4.0, sink_percent=1.0, massive=2.0) for step in (0, 2)]
    words = dict.fromkeys(("trained", "text", "optimizer", "precision", "attention"), HOSTILE)
    found = found.model_copy(
        update={
            "convert": found.convert.model_copy(update={"training": training(**words, curves=curves, probes=probes)})
        }
    )
    recipe = {"text": {"files": [HOSTILE]}, "model": {"name": HOSTILE}, "training": {"text": {"files": [HOSTILE]}}}
    return found.model_copy(update=dict(verdict=[HOSTILE], notes=[HOSTILE], recipe=recipe, sinkctl_version=HOSTILE))


def printed(report: Result, width: int = 80, encoding: str = "utf-8") -> str:
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    render(report, Console(file=output, width=width))
    output.flush()
    return output.buffer.getvalue().decode(encoding)


def blocks(card: str, language: str) -> list[str]:
    """What stands in the card's fenced blocks."""
    found = re.findall(r"^(`{3,})(\w+)\n(.*?)\n\1$", card, re.DOTALL | re.MULTILINE)
    return [text for _, name, text in found if name == language]


@pytest.mark.parametrize(("changes", "asked"), [({}, {}), (OWN_CODE, {"trust_remote_code": True})])
def test_the_python_of_the_card_loads_the_checkpoint_and_trusts_code_only_where_there_is_some(
    changes, asked, monkeypatch
):
    name = 'runs/it\'s "mine"'
    transformers = MagicMock()
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    card = model_card(converted(**changes), name)
    (block,) = blocks(card, "python")
    exec(block, {})
    transformers.AutoModelForCausalLM.from_pretrained.assert_called_once_with(name, **asked)
    transformers.AutoTokenizer.from_pretrained.assert_called_once_with(name, **asked)
    assert ("`import sinkctl`" in card) == bool(asked)


@pytest.mark.parametrize(("changes", "engines", "evaluated"), [
    ({}, "drops `head_dim`", '`tokenizer.encode("\\n", add_special_tokens=False)[-1]`'),
    (OWN_CODE, "llama.cpp and vLLM have no class", "prefix_token_id=ID"),
    (dict(mechanism="sink_token", model_type="llama"), "", "add_bos_token=False`, and others without"),
    (dict(bos="BOS, as before"), "drops `head_dim`", "add_bos_token=False`, and others without"),
])  # fmt: skip
def test_the_card_says_which_engines_take_it_and_how_others_evaluate_it(changes, engines, evaluated):
    card = model_card(converted(**changes), "out")
    assert engines in card
    assert ("llama.cpp" in card) == bool(engines)
    assert evaluated in card


@pytest.mark.parametrize("sink", [ATTENDING["key_bias"], GATES["output_headwise"]])
def test_the_card_says_refused_of_what_the_class_refuses(sink):
    model = designed("llama", sink)
    runs = {"sdpa": model._supports_sdpa, "flex_attention": model._supports_flex_attn}
    attention = ["eager", *(name for name, can in runs.items() if can)]
    refused = {name for name, can in (runs | {"flash_attention_2": model._supports_flash_attn}).items() if not can}
    assert set(refusing(detail(own_code=True, mechanism=sink["kind"], attention=attention))) == refused


def test_the_front_of_the_card_names_the_base_model_only_where_it_is_a_hub_id():
    def front(name: str, **recipe) -> dict:
        report = converted(name).model_copy(update={"recipe": recipe})
        return yaml.safe_load(model_card(report, "out").split("---\n")[1])

    plain = {"library_name": "transformers", "tags": ["attention-sink", "sinkctl", "sink_logit"]}
    assert front("demo") == front("/home/me/ckpt") == front("a/b/c") == plain
    assert front("runs/ckpt", model={"name": "/home/me/runs/ckpt"}) == plain
    assert front("org/model-1.5", model={"name": "org/model-1.5"}) == plain | {"base_model": "org/model-1.5"}


def test_foreign_words_stay_words_in_the_card():
    report = hostile()
    card = model_card(report, HOSTILE)
    assert yaml.safe_load(blocks(card, "yaml")[-1]) == report.recipe
    assert "\x1b" not in card
    rendered = MarkdownIt("commonmark").enable("table").render(card.split("---\n", 2)[2])
    page = Page(rendered)
    assert page.tags <= {"h1", "h2", "p", "ul", "li", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"}
    assert {name for name, _ in page.attributes} <= {"class", "style"}
    assert unescape(re.sub("<[^>]*>", "", rendered)).count(visible(HOSTILE)) >= 15


def test_the_card_says_how_it_is_streamed_and_the_limits():
    card = model_card(converted(), "out/demo")
    assert blocks(card, "sh") == ["sinkctl stream --model out/demo -p 0+256 book.txt"]
    for said in ("8,224 tokens of text", "granite_swa", "refuses `sdpa`", "bfloat16", "4,096 held-out tokens",
                 "removing the first token alone", "The text was cut once.", "8 of 12 layers"):  # fmt: skip
        assert said in card, said
    assert stream_policy(detail(streams=[])) == "0+256"
    assert stream_policy(detail(streams=[], mechanism="sink_token")) == "1+255"
    assert stream_policy(detail(streams=[], settings={"start": "zero", "bos": "auto"})) == "1+255"
    kept = [stream("converted", policy, "sink token", 20.0) for policy in ("1+255", "4+252")]
    assert stream_policy(detail(streams=[*kept, stream("converted", "0+256", "nothing", 30.0)])) == "1+255"
    assert stream_policy(trained().convert) == "0+256"


@pytest.mark.parametrize("report", ["converted", "trained"])
def test_tables_and_headings_of_a_card_stand_after_an_empty_line_without_which_python_markdown_has_none(report):
    lines = model_card({"converted": converted, "trained": trained}[report](), "out").splitlines()
    begun = [n for n, line in enumerate(lines) if line.startswith("#") or (line[:1] == "|" != lines[n - 1][:1])]
    assert sum(lines[n].startswith("|") for n in begun) >= 3
    assert [lines[n - 1] for n in begun] == [""] * len(begun)


def test_keys_that_vary_are_not_called_constant():
    card = model_card(converted(calibration=calibration(key_spread=0.31)), "out")
    assert "vary by 31.0 %" in card
    assert "same in every sample" not in card


def test_streams_are_compared_with_the_best_of_the_original():
    table = stream_table(detail())
    assert [row[-1] for row in table.rows] == ["+0.00 %", "+50.0 %", "+2.5 %"]


def test_what_rounding_costs_is_a_row_a_stream_and_a_column_a_format():
    lines = [
        RoundedLine(checkpoint=checkpoint, policy=policy, bits=bits, keep=keep, group=32, cost=cost, error=0.013)
        for checkpoint, policy, keep, costs in (
            ("original", "1+255", "none", (0.0067, 27.0)),
            ("original", "1+255", "first:1", (0.006, None)),
            ("converted", "0+256", "none", (-0.002, 0.22)),
        )
        for bits, cost in zip(("fp8", 2), costs, strict=True)
    ]
    table = rounded_table(detail(rounded=lines))
    assert table.columns == ["checkpoint", "cache", "kept in full", "perplexity in full", "fp8", "2 bits"]
    assert table.rows == [
        ["original", "1+255", "nothing", "20.00", "+0.67 % ± 1.3", "28.0×"],
        ["original", "1+255", "the first token", "20.00", "+0.60 % ± 1.3", "–"],
        ["converted", "0+256", "nothing", "20.50", "-0.20 % ± 1.3", "+22.0 % ± 1.3"],
    ]
    assert rounded_table(detail()).rows == rounded_table(detail()).legend == []
    report = converted(rounded=lines)
    for shown in (printed(report, 60), printed(report, 120), html(report, {}), model_card(report, "out")):
        assert "28.0×" in shown
        assert "groups of 32" in " ".join(shown.split())


def test_what_could_not_be_streamed_is_a_dash_without_a_bar():
    lost = [*STREAMS[:2], ("converted", "0+256", "nothing", None)]
    report = converted(streams=[stream(*line) for line in lost])
    assert stream_table(report.convert).rows[-1][-2:] == ["–", "–"]
    page = html(report, {})
    lengths = [float(length) for length in re.findall(r'class="bar" style="width:([\d.]+)%;', page)]
    assert len(lengths) == 2
    assert lengths[1] / lengths[0] == pytest.approx(1.5, rel=1e-3)
    card = model_card(report, "out")
    assert "| converted | 0+256 | nothing | – | – |" in card
    assert not blocks(card, "sh")
    nothing = converted(streams=[stream(*line[:3], None) for line in STREAMS], checkpoints=[], calibration=None)
    for shown in (printed(nothing), html(nothing, {}), model_card(nothing, "out")):
        assert not re.search(r"\b(nan|None)\b(?!:)", shown)


def test_no_foreign_word_becomes_a_tag_or_an_attribute():
    page = html(hostile(), {})
    found = Page(page)
    assert not found.tags & {"script", "red", "img", "link"}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_the_page_shows_every_number():
    page = html(converted(), {})
    for said in ("20.50", "+2.5 %", "0.0741", "76.5 %", "0.875", "0.385", "42.1", "224×", "-1.25", "13.8", "0.0125",
                 "8 MiB", "6,180", "granite_swa"):  # fmt: skip
        assert said in page, said


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_terminal_of_any_width_shows_what_the_converted_checkpoint_does(width):
    shown = printed(converted(), width)
    assert max(map(cell_len, shown.splitlines())) <= width
    for said in ("20.50", "18.25", "Good: 95.0 % made good.", "12.3 s"):
        assert said in shown, said


def test_an_ascii_terminal_gets_ascii_and_no_markup():
    shown = printed(converted(mechanism="gate"), 100, "ascii")
    assert shown.isascii()
    assert "\\" not in shown
    foreign = printed(hostile(), 400, "ascii")
    assert foreign.count("[red]<script>") >= 8
    assert "\x1b" not in foreign


def test_every_mechanism_has_its_formula_in_words():
    assert set(KINDS) == set(SINKS)
    for kind, sink in SINKS.items():
        words = mechanism_words(detail(mechanism=kind, settings=sink().model_dump()))
        assert "{" not in words
        assert len(words) > 20


def test_a_card_says_that_no_weight_was_trained_only_where_none_was():
    untrained, card = model_card(converted(), "out"), model_card(trained(), "out")
    for words in ("No weight was trained", "Training-free"):
        assert words in untrained
        assert words not in card
    assert "It was trained (every weight) for 400 steps of 32 × 512 tokens (6.55M) on tales.txt, 3 files." in card
    assert "A control, the same steps, data and seed without the mechanism, is compared with it below." in card
    assert "has bought none" in card
    assert "removing the first token alone" not in card
    assert "Trained on tales.txt, 3 files (13,107,200 tokens, gone through 0.5 times)." in card.split("## Data")[1]
    assert blocks(card, "sh") == ["sinkctl stream --model out -p 0+256 book.txt"]
    assert card.split("---\n")[1] == untrained.split("---\n")[1]


def test_a_card_without_a_control_says_what_that_leaves_open():
    alone = training(curves=training().curves[:1], trained="new")
    lines = [line for line in trained().convert.streams if line.checkpoint != "control"]
    report = trained(training=alone, streams=lines, checkpoints=[])
    card = model_card(report, "out")
    assert "It was trained (the mechanism alone)" in card
    assert "No control was trained" in card
    assert "nothing shows that the mechanism, and not the training, made the difference" in card
    assert "a control" not in printed(report, 300).split("trained:")[1].split("stored")[0]
    control = model_card(trained(training=alone, streams=lines, checkpoints=[], mechanism="none", settings={}), "out")
    assert "No control was trained:" not in control
    assert "nothing shows" not in control


def test_a_card_of_a_model_from_scratch_names_no_base_model_and_no_original():
    lines = [line for line in trained().convert.streams if line.checkpoint != "original"]
    report = trained("org/model", streams=lines, checkpoints=[], calibration=None, from_scratch=True)
    card = model_card(report, "out")
    assert "base_model" not in card.split("---\n")[1]
    assert "A model of random weights (llama, 5.51M parameters), with the tokenizer of org/model, was given" in card
    assert "original" not in card.split("## Recipe")[0].replace("The text", "")
    table = stream_table(report.convert)
    assert table.columns[-1] == "to the best control"
    assert table.rows[2][-1] == "-1.6 %"  # 18 / 18.3
    assert "start 0+256" not in html(report, {}), "its bar would leave the others no room"


def test_a_card_names_training_files_without_their_folders():
    recipe = {"training": {"text": {"files": ["/home/me/tales.txt", "-"]}, "lr": 0.001}}
    card = model_card(trained().model_copy(update={"recipe": recipe}), "out")
    assert yaml.safe_load(blocks(card, "yaml")[-1])["training"] == {"text": {"files": ["tales.txt", "-"]}, "lr": 0.001}
    assert "/home/me" not in card


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_terminal_of_any_width_shows_the_control_and_how_it_was_trained(width):
    shown = printed(trained(), width)
    assert max(map(cell_len, shown.splitlines())) <= width
    plain = " ".join(shown.split())
    for said in ("start", "control", "18.40", "400 steps of 32 × 512 tokens (6.55M) in 3 min 20 s", "32,768 tok/s",
                 "bfloat16", "sdpa: a window on a CPU"):  # fmt: skip
        assert said in plain, said
    narrow = [line for line in trained().convert.streams if line.checkpoint != "original"]
    assert "18.40" in printed(trained(streams=narrow), 40)
    assert ("kurtosis" in plain) == (width >= 80)


def test_the_loss_is_drawn_as_a_moving_mean_over_what_was_measured():
    first, control = loss_lines(training())
    assert (first.label, control.label) == ("converted", "control")
    assert [dot.x for dot in first.dots] == list(range(1, 401))
    assert first.span == 11  # 2 · (400 // 80) + 1
    assert first.dots[199].y == pytest.approx((6 * 3.5 + 5 * 3.3) / 11)  # steps 195 to 205: the odd have 3.5
    page = html(trained(), {})
    assert set(loss_picture(training()).faint) == {"converted", "control"}
    assert "moving mean over 11 neighbouring points" in page
    assert "converted: from 4.00 to 3.00; control: from 4.00 to 3.50" in page
    for said in ("22.5", "25.5", "13,107,200 tokens, gone through 0.5 times", "the last 255 tokens and itself"):
        assert said in page, said


def test_probes_are_drawn_against_steps_a_line_a_checkpoint():
    pictures = {picture.name: picture for picture in probe_pictures(training())}
    assert set(pictures) == {"probe-sinks", "probe-mass", "probe-loss", "probe-massive", "probe-kurtosis"}
    assert set(pictures["probe-sinks"].lines) == {"converted Sink₁", "converted Sink*", "control Sink₁"}
    assert pictures["probe-sinks"].lines["converted Sink*"][-1] == (400, 64.0)
    assert set(pictures["probe-mass"].lines) == {"converted"}
    assert pictures["probe-loss"].y_range == (3.5, 3.9)
    page = html(trained(), {})
    assert page.count("<svg") == 2 + 5  # losses, wide and narrow, and these
    assert probe_pictures(training(probes=[])) == []
    assert html(trained(training=training(probes=[])), {}).count("<svg") == 2


def test_numbers_that_training_lost_are_left_out_and_said():
    lost = [3.0, float("nan"), 12.0, float("inf")]
    curves = [TrainingCurve(checkpoint=c, loss=lost, objective=lost, gradient=lost, seconds=float("nan"))
              for c in ("converted", "control")]  # fmt: skip
    probes = [Probe(checkpoint="converted", step=1, loss=float("nan"), massive=float("inf"), kurtosis=None)]
    settings = dict(tokens_per_second=float("nan"), epochs=float("inf"), window=None)
    broken = trained(training=training(curves=curves, probes=probes, **settings))
    page = html(broken, {})
    assert "Left out, without a number: 2 steps." in page
    assert "Losses above 9.21 are drawn at 9.21." in page
    for shown in (printed(broken), page, model_card(broken, "out")):
        assert not re.search(r"\b(nan|inf|None)\b(?!:)", shown)
    empty = training(curves=[curve.model_copy(update={"loss": []}) for curve in curves], probes=[])
    assert '<table class="bars">' in html(trained(training=empty), {})
    one = training(steps=1, batch=1, length=8)
    assert training_line(one).startswith("trained: 1 step of 1 × 8 tokens (8) in 3 min 20 s, 32,768 tok/s, bfloat16;")


def test_what_was_trained_is_named_without_a_mechanism_that_is_not_there():
    def said(mechanism: str, trained: str) -> str:
        return dict(training_facts(training(trained=trained), mechanism))["trained"]

    assert said("gate", "attention") == "the mechanism and the attention projections (5,512,345 parameters)"
    assert said("none", "attention") == "the attention projections (5,512,345 parameters)"
    assert said("none", "lora").startswith("low-rank updates of the attention projections, merged at the end")
    assert said("none", "new") == "nothing (5,512,345 parameters)"


def test_what_constants_hold_of_the_first_token_is_named():
    plain, layer = calibration(), calibration().layers[1]
    folded = layer.model_copy(update={"begun": layer.begun | {"lost_key": 1.0, "lost_value": 0.1}})
    said = mechanism_words(detail(calibration=plain.model_copy(update={"layers": [folded]})))
    assert said.endswith(", and constants on keys, values and outputs hold more of the first token")
    assert mechanism_words(detail()).endswith(", and a constant is added to what each head gives")
