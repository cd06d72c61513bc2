"""Recipes: what is wrong is named with its file, line and field; what ships is valid."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from sinkctl.check.mistaken import COMMANDS
from sinkctl.errors import RecipeError, UsageError
from sinkctl.recipe.json_schema import json_schema
from sinkctl.recipe.load import load
from sinkctl.recipe.named import built_in, folder
from sinkctl.recipe.shorthand import policy

SIZED = "{kind: sink_window, sinks: 4, window: 60}"
WRONG = [
    ("task: stream\npolicies:\n  - kind: window\n    wndow: 5\n", ":4: policies.0.wndow: no such field; did you mean"),
    ("task: stream\npolicies:\n  - kind: sink_windo\n", ":3: policies.0: no such kind 'sink_windo'; did you mean"),
    ("task: stream\npolicies:\n  - {sinks: 4}\n", ":3: policies.0: a mapping that says which `kind`, such as {kind"),
    ("task: stream\npolicies: [4+60]\n", f":2: policies.0: a mapping that says which `kind`, such as {SIZED} ("),
    ("task: stream\npolicies: 4+60\n", f":2: policies: input should be a list, such as [{SIZED}]"),
    ("task: stream\ntext: {files: a.txt}\n", ":2: text.files: input should be a list, such as [a.txt]"),
    ("task: stream\nmodel: demo\n", ":2: model: a mapping of settings: name, adapters, revision, device, dtype, … (gi"),
    ("task: stream\npolicies:\n  - {kind: sink_window, window: 0}\n", ":3: policies.0.window: input should be"),
    ("task: convert\nsink: kv_bias\n", ":2: sink: a mapping that says which `kind`, such as {kind: kv_bias} (gi"),
    ("task: convert\ntraining: {weight_decay: .inf}\n", ":2: training.weight_decay: input should be a finite"),
    ("task: convert\ntraining: {clip: .nan}\n", ":2: training.clip: input should be greater than 0"),
    ("task: convert\nsink: {kind: clipped_softmax, alpha: .inf}\n", ":2: sink.alpha: input should be a finite number"),
    ("task: convert\nsink: {kind: none, start: zero}\n", ":2: sink.start: no such field; none has kind, bos"),
    ("task: convert\nsink: {kind: gate, start: zero}\n", ":2: sink.start: input should be 'exact' or 'match'"),
    ("task: convert\nsink: {kind: gate, start: match, place: input}\n", ":2: sink: start match: the first token's"),
    ("task: stream\nmodel:\n  nam: x\n", ":3: model.nam: no such field; did you mean 'name'?"),
    ("task: strem\n", ":1: task: no such task 'strem'; did you mean 'stream'?"),
    ("model: {}\n", ": task: missing; one of stream"),
    ("task: stream\nlimit: 5\nlimit: 6\n", ":3: limit is given twice"),
    ("task: stream\n  x: [\n", ":2: mapping values are not allowed here"),
    ("- a\n", ": a recipe is a mapping that starts with `task: stream`"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_recipe_is_one_line_with_file_line_and_field(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


def test_all_mistakes_of_a_recipe_are_named_in_the_order_of_its_lines(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "task: bench\nshape: tiny\ncases:\n  - {kind: kernel, tokens: [1, x]}\n  - {kind: tasks}\n  - {kind: tsks}\n"
        "  - {kind: stream, chunks: [0]}\ntimng: {}\n"
    )
    with pytest.raises(RecipeError) as error:
        load(path)
    assert [said.removeprefix(f"{path}:").split(" (")[0] for said in error.value.problems] == [
        "4: cases.0.op: missing; add it",
        "4: cases.0.tokens.1: input should be a valid integer, unable to parse string as an integer",
        "5: cases.1.tasks: missing; add it",
        "6: cases.2: no such kind 'tsks'; did you mean 'tasks'? One of stream, decode, memory, processes, measure, "
        "train, kernel, quality, prefix, retrieval, tasks, startup",
        "7: cases.3.chunks.0: input should be greater than or equal to 1, or input should be 'auto'",
        "8: timng: no such field; did you mean 'timing'?",
    ]
    assert str(error.value) == error.value.problems[-1]  # the field first: the others may follow from it


def test_yaml_means_what_people_read(tmp_path):
    """YAML 1.1 would read no as false, 12:30 as 750 and 1e3 as text."""
    path = tmp_path / "r.yaml"
    path.write_text("task: stream\nlimit: 1e3\ntext:\n  field: no\n  files: [12:30]\n")
    found = load(path)
    assert (found.limit, found.text.field, found.text.files) == (1000, "no", ("12:30",))


def test_overrides_reach_into_lists_and_are_validated(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("task: stream\npolicies: [{kind: sink_window}]\n")
    found = load(path, ["policies.0.window=512", "model.dtype=float64"])
    assert (found.policies[0].window, found.model.dtype) == (512, "float64")
    for wrong, message in (
        ("policies.0.wndow=1", "did you mean 'window'"),
        ("policies.3.window=1", "not an index"),
        ("x", "key=value"),
    ):
        with pytest.raises(RecipeError, match=message):
            load(path, [wrong])


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    """What editors hold a recipe against; that it is a schema takes longer to tell than all recipes do."""
    committed = json.loads((folder() / "schema/recipe.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(committed)
    return jsonschema.Draft202012Validator(committed)


@pytest.mark.parametrize(("name", "path"), built_in().items())
def test_built_in_recipes_are_valid_and_say_how_to_run_them(name, path, schema):
    command = COMMANDS.get(task := load(path).task, task)
    schema.validate(yaml.safe_load(path.read_text()))
    lines = path.read_text().splitlines()
    assert lines[0] == f"# yaml-language-server: $schema={'../' * name.count('/')}schema/recipe.schema.json"
    called = f"bench {path.stem}" if task == "bench" else f"{command} --recipe {name}"
    assert any(line.startswith(f"#   sinkctl {called}") for line in lines)


def test_a_recipe_on_a_base_says_what_differs_and_may_not_stand_on_nothing(tmp_path):
    whole, path = tmp_path / "whole.yaml", tmp_path / "r.yaml"
    whole.write_text("task: convert\nsteps: 8\nsink: {kind: gate, place: value}\ntraining: {lr: 0.5, batch: 3}\n")
    path.write_text(f"base: {whole}\nsink: {{place: input}}\ntraining:\n  batch: 4\n")
    found = load(path, ["training.seed=7"])
    assert (found.steps, found.sink.kind, found.sink.place) == (8, "gate", "input")
    assert (found.training.lr, found.training.batch, found.training.seed) == (0.5, 4, 7)
    for text, message in (
        (f"base: {whole}\ntraining:\n  btch: 4\n", r"r.yaml:3: training.btch: no such field; did you mean 'batch'"),
        ("task: convert\nbase: convert/gat\n", "r.yaml:2: base: convert/gat: no such file .* mean 'convert/gate'"),
        ("base: [a]\n", "r.yaml:1: base: name a recipe"),
        (f"base: {path}\n", "no whole recipe; name one without a base of its own"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match=message):
            load(path)


def test_the_committed_schema_is_fresh():
    committed = Path(folder() / "schema/recipe.schema.json").read_text()
    assert committed == json_schema(), "run: sinkctl recipe schema > recipes/schema/recipe.schema.json"


def test_policies_are_written_as_in_the_papers():
    assert policy("4+252") == {"kind": "sink_window", "sinks": 4, "window": 252}
    assert policy("0+256") == {"kind": "window", "sinks": 0, "window": 256}
    assert policy("recompute:4+auto") == {"kind": "recompute", "sinks": 4, "window": "auto"}
    assert policy("dense") == {"kind": "dense"}
    assert policy("heavy_hitter:0+64") == {"kind": "heavy_hitter", "sinks": 0, "window": 64}
    assert policy("snap:4+60") == {"kind": "snap", "sinks": 4, "window": 60}
    assert policy("random:4+60@16") == {"kind": "random", "sinks": 4, "window": 60, "every": 16}
    assert policy("recompute:4+60@20")["every"] == 20
    assert policy("layers:4+60:0,8") == {"kind": "layers", "sinks": 4, "window": 60, "whole": [0, 8]}
    for wrong in (
        "4-252",
        "densse",
        "4+60@4",
        "random:4+60@0",
        "snap:4+60@2",
        "dense:4+2",
        "4+",
        "window:x",
        "layers",
        "layers:4+60",
        "layers:4+60:a",
        "heads",
        "heads:4+60:nowhere",
    ):
        with pytest.raises(UsageError, match="--policy"):
            policy(wrong)
    with pytest.raises(
        UsageError, match=r"random:4\+60@0: @N is a whole number of tokens, at least 1; write random:4\+60@16$"
    ):
        policy("random:4+60@0")
    for wrong in ("4+60@8", "snap:4+60@8"):
        with pytest.raises(UsageError, match=r"4\+60@8: only .*heavy_hitter.* take @N; leave it out$"):
            policy(wrong)


def test_whole_heads_are_those_that_look_farthest(tmp_path):
    """Three layers of four query heads in two groups, of which the second has no softmax attention."""
    split_RH4 = np.zeros((2, 4, 4), np.float32)
    split_RH4[..., 2] = [[0.1, 0.2, 0.5, 0.0], [0.3, 0.3, 0.1, 0.4]]
    arrays = {"mass_split": split_RH4, "value_drain": np.ones((2, 2), np.float32), "layer_of_row": np.array([0, 2])}
    save_file({f"0/natural, BOS/{name}": x for name, x in arrays.items()}, tmp_path / "arrays.safetensors")
    found = policy(f"heads:4+60:{tmp_path}@0.5")
    assert found == {"kind": "heads", "sinks": 4, "window": 60, "whole": [(0, 1), (2, 1)]}
    assert policy(f"heads:4+60:{tmp_path}")["whole"] == [(0, 1)]
