"""Checkpoints side by side: folders opened, labels short and their own, steps read from names."""

import pytest

from sinkctl.errors import UsageError
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.checkpoints import checkpoints
from sinkctl.recipe.schema import MeasureRecipe


def found(*names: str, **recipe) -> list[tuple[str, str, int | None]]:
    return [(label, s.name, step) for label, s, step in checkpoints(MeasureRecipe(checkpoints=names, **recipe))]


def checkpoint(folder) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return str(folder)


def test_without_names_the_recipes_own_model_is_measured():
    (one,) = checkpoints(MeasureRecipe(model=ModelSettings(dtype="float64")))
    assert (one.label, one.settings, one.step) == ("demo", ModelSettings(dtype="float64"), None)


def test_a_folder_of_checkpoints_opens_in_the_order_of_steps(tmp_path):
    inner = [checkpoint(tmp_path / "run" / f"checkpoint-{step}") for step in (1000, 500, 0)]
    (tmp_path / "run" / "checkpoint-700").mkdir()  # no config.json
    expected = [(f"checkpoint-{step}", path, step) for step, path in zip((0, 500, 1000), inner[::-1], strict=True)]
    assert found(str(tmp_path / "run")) == expected
    assert found(model=ModelSettings(name=str(tmp_path / "run"))) == expected
    checkpoint(tmp_path / "whole" / "checkpoint-1")
    (tmp_path / "whole" / "config.json").write_text("{}")
    assert [label for label, _, _ in found(str(tmp_path / "whole"))] == ["whole"]


def test_labels_are_as_long_as_it_takes_to_tell_them_apart(tmp_path):
    paths = [checkpoint(tmp_path / run / "last") for run in ("a", "b")] + [checkpoint(tmp_path / "a" / "first")]
    assert [label for label, _, _ in found(*paths, "org/last-one", "demo")] == [
        "a/last", "b/last", "first", "last-one", "demo",
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"^last: named twice"):
        found(paths[0], paths[0])


@pytest.mark.parametrize(
    ("name", "step"),
    [("checkpoint-500", 500), ("step1000", 1000), ("step=2000", 2000), ("pythia-step-3000", 3000), ("step0", 0),
     ("stage1-step1000-tokens4B", 1000), ("global_step64", 64), ("epoch=1-step=20.ckpt", 20), ("step10k", None),
     ("footstep7", None), ("llama-7b", None)],
)  # fmt: skip
def test_a_step_is_what_the_name_says(name, step):
    assert found(f"org/{name}") == [(name, f"org/{name}", step)]


def test_revisions_are_of_one_hub_id(tmp_path):
    revisions = ("step1000", "main")
    first, second = checkpoints(MeasureRecipe(checkpoints=("org/model",), revisions=revisions))
    assert (first.label, first.settings.name, first.settings.revision, first.step) == (
        "model@step1000", "org/model", "step1000", 1000,
    )  # fmt: skip
    assert (second.label, second.step) == ("model@main", None)
    for names in (("org/a", "org/b"), ("demo",), (checkpoint(tmp_path / "here"),)):
        with pytest.raises(UsageError, match="revisions are of"):
            found(*names, revisions=revisions)
