"""A recipe, a text, a checkpoint or a run in the place of another: one line says what it is, and what takes it."""

import json
import shutil

import pytest

from sinkctl.check.mistaken import check_meant
from sinkctl.errors import UsageError
from sinkctl.model.named import DEMO
from sinkctl.recipe.named import built_in

RUN, ITSELF = "a run of `sinkctl stream`", "a recipe of `sinkctl stream`"
ANYWHERE = {
    "text.txt": "a text", "quick.yaml": ITSELF, "noted": ITSELF, "base.yml": "a recipe of `sinkctl convert`",
    "stream/quick": ITSELF, "run": RUN, "run/result.json": "the result of a run", "ckpt": "a checkpoint",
    "model.gguf": "a GGUF model", "adapter": "a PEFT adapter", "demo": "the built-in model",
}  # fmt: skip
TAKES = {  # command that takes none but … → these, by what they are
    "stream": ("a text",),
    "measure": ("a checkpoint", "a GGUF model", "a PEFT adapter", "the built-in model"),
    "convert -o new": ("a checkpoint", "a GGUF model", "a PEFT adapter", "the built-in model"),
    "bench": (),
    "show": (RUN, "the result of a run"),
    "bench compare other": (RUN, "the result of a run"),
    "stream --recipe": (ITSELF, "a recipe of `sinkctl convert`"),
    "recipe validate": (ITSELF, "a recipe of `sinkctl convert`"),
    "recipe show": (ITSELF, "a recipe of `sinkctl convert`"),
    "measure --model": ("a checkpoint", "a GGUF model", "a PEFT adapter", "the built-in model"),
}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """One of everything."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("It was a dark and stormy night.\n")
    quick = built_in()["stream/quick"].read_text(encoding="utf-8")
    (tmp_path / "quick.yaml").write_text(quick)
    (tmp_path / "noted").write_text(quick)
    (tmp_path / "base.yml").write_text("base: convert/gate\nsteps: 2\n")
    for name, form in (("m.json", '{"task": "measure"}'), ("braces.yaml", "{task: measure}"),
                       ("quoted.yaml", '"task": measure'), ("spaced.yaml", "task : measure")):  # fmt: skip
        (tmp_path / name).write_text(form)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_text(quick)
    (tmp_path / "run/result.json").write_text('{\n "schema_version": 1,\n "task": "stream"}')
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    (tmp_path / "ckpt").mkdir()
    shutil.copy(DEMO / "config.json", tmp_path / "ckpt")
    (tmp_path / "model.gguf").write_bytes(b"GGUF\3\0\0\0")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("command", TAKES)
def test_what_is_no_such_thing_is_called_what_it_is(desk, sinkctl, command):
    for name, what in ANYWHERE.items():
        if what in TAKES[command]:
            continue
        code, out, said = sinkctl(*command.split(), name)
        assert (code, out) == (2, ""), (name, said)
        assert f"{name}: is {what}, not " in said, (name, said)
        assert len(said.splitlines()) == 1
        assert "sinkctl " in said or f"--model {name}" in said or f"--adapter {name}" in said


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("generate text.txt -n 3", "as words: sinkctl stream --generate 3 --prompt text.txt"),
        ("generate --recipe quick.yaml", "not of `sinkctl generate`; run it with: sinkctl stream --recipe quick.yaml"),
        ("ask --recipe stream/quick", "not of `sinkctl ask`; run it with: sinkctl stream --recipe stream/quick"),
        ("chat --recipe quick.yaml", "not of `sinkctl chat`"),
        ("generate --resume run", "run: is a run of `sinkctl stream`, not of `sinkctl generate`"),
        ("measure --resume run", "go on with: sinkctl stream --resume run"),
        ("bench quick.yaml --quick", "run it with: sinkctl stream --recipe quick.yaml"),
        ("measure --text ckpt", "ckpt: is a checkpoint, not a text"),
        ("measure --images quick.yaml", "--images quick.yaml: looks like text; --images takes"),
        ("measure --audio text.txt", "--audio text.txt: looks like text; --audio takes .wav files"),
        ("strem text.txt", "no such command 'strem'; did you mean 'stream'?"),
        ("stream --recipe m.json", "m.json: is a recipe of `sinkctl measure`, not of `sinkctl stream`"),
        ("bench braces.yaml", "is a recipe of `sinkctl measure`, not of `sinkctl bench`; run it with: sinkctl measure"),
        ("generate --recipe quoted.yaml", "is a recipe of `sinkctl measure`, not of `sinkctl generate`"),
        ("chat --recipe spaced.yaml", "is a recipe of `sinkctl measure`, not of `sinkctl chat`"),
        ("stream m.json", "m.json: is a recipe of `sinkctl measure`, not a text"),
        ("measure --recipe m.json --set task=convert", "--set task=convert: is of another command"),
        ("stream --text text.txt", "texts are named without a flag"),
        ("measure --policy 4+60", "no such option: --policy; it is of `sinkctl stream`, `sinkctl generate`"),
        ("text.txt", "is no command; to score a text: sinkctl stream text.txt"),
        ("stream quick.yaml", "as a text: sinkctl stream --set 'text.files=[quick.yaml]'"),
    ],
)
def test_a_recipe_or_run_of_another_command_is_sent_there(desk, sinkctl, command, said):
    code, out, err = sinkctl(*command.split())
    assert (code, out) == (2, ""), err
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_recipe_is_a_text_where_one_says_so(desk, sinkctl):
    assert sinkctl("stream", "--set", "text.files=[quick.yaml]", "--each", "file", "--limit", "20", "-q")[0] == 0
    code, out, _ = sinkctl("measure", "--text", "quick.yaml", "--samples", "1", "--no-cost", "--json", "-q")
    assert code == 0
    assert json.loads(out)["recipe"]["input"]["files"] == [str(desk / "quick.yaml")]


def test_a_run_that_was_stopped_is_gone_on_with(desk):
    (desk / "run/result.json").unlink()
    (desk / "run/state").mkdir()
    (desk / "run/state/state.json").write_text("{}")
    with pytest.raises(UsageError, match=r"sinkctl stream --resume run; its recipe is run/recipe\.yaml"):
        check_meant("run", "a text")


def test_what_may_be_meant_passes(desk):
    """Texts whatever they are called, texts in a file behind a flag, a checkpoint that also is a run, a pipe."""
    (desk / "x.yaml").write_text("name: a list\nitems: [task, base]\n")
    (desk / "other.yaml").write_text("task: classify\n")
    (desk / "ci.yaml").write_text("task: convert\nservices: [a, b]\n")
    (desk / "ci.json").write_text('{"task": "convert", "services": ["a", "b"]}')
    (desk / "long.yaml").write_text("base: mountain\n" + "- a line\n" * 20_000)
    (desk / "p.txt").write_text("task: convert the units of every number below\n")
    (desk / "howto.txt").write_text("How to write one.\n\ntask: stream goes first in a recipe\n")
    (desk / "demo").write_text("A text that is called so.")
    for name in (
        "x.yaml",
        "other.yaml",
        "ci.yaml",
        "ci.json",
        "long.yaml",
        "p.txt",
        "howto.txt",
        "demo",
        "-",
        "nowhere.txt",
        "It was a dark night",
    ):
        check_meant(name, "a text")
    (desk / "made").mkdir()
    for name in ("config.json", "recipe.yaml", "result.json"):
        (desk / "made" / name).write_text("{}")
    check_meant("made", "a checkpoint")
    check_meant("made", "a run")
    check_meant("ORGANISATION/NAME", "a checkpoint")
    (desk / "stream").mkdir()
    (desk / "demo").unlink()
    for name, wanted in (("ci", "a suite"), ("demo", "a checkpoint"), ("stream/quick", "a recipe")):
        shutil.copytree(desk / "run", desk / name)  # a run that is called so
        check_meant(name, wanted)
    forms = (b"limit: 3\ntask: stream\n", b"---\ntask: stream\n", b"# so\r\n\r\ntask: stream\r\n",
             b"\xef\xbb\xbftask: stream\n")  # fmt: skip
    for number, begun in enumerate(forms):
        (desk / f"recipe{number}.txt").write_bytes(begun)
        check_meant(f"recipe{number}.txt", "a recipe")
    shutil.copy(desk / "run/result.json", desk / "baseline.txt")
    check_meant("baseline.txt", "a run")
    check_meant("quick.yaml", "a suite")  # of which task, `check_task` tells
