"""Runs that were kept, shown again and beside each other."""

import csv
import json
import re

import pytest


@pytest.fixture(scope="module")
def runs(tmp_path_factory, book):
    """Two short streams that were kept: with a sink, and without."""
    from sinkctl import stream

    folder = tmp_path_factory.mktemp("runs")
    (folder / "book.txt").write_text(book[:6000], encoding="utf-8")
    for name, policy in (("with", "4+60"), ("without", "0+64")):
        stream(str(folder / "book.txt"), policies=[policy], limit=600, output=folder / name)
    return folder


def test_a_run_is_shown_again_and_its_text_is_named(sinkctl, runs):
    code, out, _ = sinkctl("show", runs / "with")
    assert code == 0
    assert "4+60" in out
    assert "600 tokens of" in " ".join(out.split())
    assert "book.txt" in out
    code, out, _ = sinkctl("show", runs / "with", "--json")
    assert json.loads(out) == json.loads((runs / "with/result.json").read_text())


def test_all_numbers_of_a_run_are_written_as_they_were_measured(sinkctl, runs):
    code, out, said = sinkctl("show", runs / "with", "--save-as", "csv", "--save-as", "jsonl")
    assert (code, out) == (0, ""), said
    truth = json.loads((runs / "with/result.json").read_text())["measurements"]
    with (runs / "with/measurements.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    rows = [json.loads(line) for line in (runs / "with/measurements.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [m for m in truth if m["samples"]]
    assert rows == [{name: m[name] for name in ("name", "value", "unit", "better", "samples")} for m in kept]
    assert [(row["name"], float(row["value"]), row["unit"]) for row in table] == [
        (m["name"], m["value"], m["unit"]) for m in kept
    ]
    assert sinkctl("show", runs / "with", "--save-as", "xml")[2] == "sinkctl: --save-as xml: csv or jsonl\n"


def test_a_page_and_pictures_are_made_anew(sinkctl, runs):
    page = runs / "with/report.html"
    before = page.read_text(encoding="utf-8")
    page.write_text("")
    assert sinkctl("show", runs / "with/result.json", "--html", "--plots", "svg")[0] == 0
    # But for the seconds that the first page itself took, it is the same.
    same = [re.sub(r"(report|result) [\d.]+ s|[\d.]+ s in all", "", text) for text in (before, page.read_text("utf-8"))]
    assert len(same[0]) == pytest.approx(len(same[1]), abs=200)
    assert "4+60" in same[1]
    assert (runs / "with/plots/perplexity.svg").read_text().startswith("<?xml")


def test_two_runs_stand_side_by_side_with_their_difference(sinkctl, runs):
    code, out, _ = sinkctl("compare", runs / "with", runs / "without", "--json")
    table = json.loads(out)
    (first, second) = (json.loads((runs / name / "result.json").read_text()) for name in ("with", "without"))
    change = second["stream"]["policies"][0]["perplexity"] / first["stream"]["policies"][0]["perplexity"] - 1
    (row,) = [row for row in table["rows"] if row[0] == "perplexity"]
    assert (code, table["columns"][-1]) == (0, "Δ")
    assert float(row[-1].split()[0]) == pytest.approx(100 * change, abs=0.06)
    assert "*" in sinkctl("compare", runs / "with", runs / "without")[1]
    (rate,) = [row for row in table["rows"] if row[0] == "sink_rate"]
    assert rate[-1] == "+0.00 points"


def test_runs_over_other_texts_have_no_better_one(sinkctl, runs, tmp_path):
    saved = json.loads((runs / "without/result.json").read_text())
    saved["recipe"]["text"]["files"], saved["stream"]["tokens"] = ["/data/other.txt"], 1234
    (tmp_path / "result.json").write_text(json.dumps(saved))
    code, out, _ = sinkctl("compare", runs / "with", tmp_path)
    said = " ".join(out.split())
    assert code == 0
    assert "*" not in out
    assert "not the same text: book.txt (" in said
    assert "not the same number of tokens: 600 (" in said
    notes = json.loads(sinkctl("compare", runs / "with", tmp_path, "--json")[1])["notes"]
    assert [note.partition(":")[0] for note in notes] == ["not the same text", "not the same number of tokens"]


def test_what_is_no_run_or_of_another_task_is_one_line(sinkctl, runs, tmp_path):
    other = json.loads((runs / "with/result.json").read_text()) | {"task": "generate"}
    (tmp_path / "result.json").write_text(json.dumps(other))
    for words, said in (
        (("show", tmp_path / "no"), "name a run folder"),
        (("show", runs), "holds no run of sinkctl; name a run folder"),
        (("show", runs / "with/recipe.yaml"), "is a recipe of `sinkctl stream`, not a run"),
        (("compare", runs / "with"), "name two runs or more"),
        (("compare", runs / "with", tmp_path), "of stream and generate"),
        (("show", runs / "with", "--plots", "gif"), "png or svg"),
    ):
        code, _, err = sinkctl(*words)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert said in err
