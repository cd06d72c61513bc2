"""Learned registers: the stock class, targets without outliers against plain loops, a loss that falls, a control."""

import pytest
import torch
from test_test_time_registers import images, photos, planted, saved  # noqa: F401
from transformers import AutoModel, Dinov2WithRegistersModel

from sinkctl.api.conversion import convert
from sinkctl.errors import ModelError, UsageError
from sinkctl.tasks.convert.registers.distill import targets, with_registers


def test_targets_are_means_over_rolled_views_without_outliers():
    model, (image,) = planted("dinov2"), images(1)
    (target,) = targets(model, [image], 4, 100.0, lambda share: None)
    total, seen = torch.zeros(4, 4, 32), torch.zeros(4, 4)
    for view in range(4):
        rolled = torch.roll(image, (8 * view, 8 * view), (1, 2))
        with torch.no_grad():
            out = model(rolled[None], output_hidden_states=True)
        for row in range(4):
            for column in range(4):
                at = 1 + 4 * ((row + view) % 4) + (column + view) % 4
                if out.hidden_states[-1][0, at].norm() <= 100:
                    total[row, column] += out.last_hidden_state[0, at]
                    seen[row, column] += 1
    assert int(seen.sum()) == 4 * 16 - 4  # the planted patch is left out of each view
    torch.testing.assert_close(target.patch_PC, (total / seen[..., None]).flatten(0, 1), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(target.cls_C, model(image[None]).last_hidden_state[0, 0], atol=1e-5, rtol=1e-5)
    assert bool(target.known_P.all())


def test_the_start_has_the_originals_weights_and_random_registers():
    model = planted("dinov2")
    built = with_registers(model, 3, seed=0)
    assert type(built) is Dinov2WithRegistersModel
    own = dict(built.named_parameters())
    assert own["embeddings.register_tokens"].shape == (1, 3, 32)
    assert all(torch.equal(own[name], x) for name, x in model.named_parameters())


def test_registers_are_trained_beside_a_control_and_stored_in_the_stock_class(tmp_path, photos):  # noqa: F811
    where = saved(tmp_path / "planted", planted("dinov2"))
    done = convert(
        where, to="registers", images=(str(photos),), output=tmp_path / "out", count=2, steps=30, batch=2, lr=3e-3
    )
    detail, training = done.result.registers, done.result.registers.training
    assert [line.checkpoint for line in detail.lines] == ["original", "converted", "control"]
    assert len(training.loss) == len(training.control) == 30
    assert sum(training.loss[-5:]) < 0.8 * sum(training.loss[:5])
    plain = AutoModel.from_pretrained(done.path)
    assert type(plain) is Dinov2WithRegistersModel
    assert plain.config.num_register_tokens == 2
    original = AutoModel.from_pretrained(where)
    assert not torch.equal(plain.layernorm.weight, original.layernorm.weight)  # every weight learned
    again = convert(
        where, to="registers", images=(str(photos),), output=tmp_path / "new", count=2, steps=3, batch=2, trained="new"
    )
    alone = dict(AutoModel.from_pretrained(again.path).named_parameters())
    assert all(torch.equal(alone[name], x) for name, x in original.named_parameters())
    assert "There is no control" in again.result.verdict[-1]


def test_what_does_not_go_together_is_said_in_a_line(tmp_path, photos):  # noqa: F811
    where, out = saved(tmp_path / "vit", planted("vit")), tmp_path / "out"
    with pytest.raises(ModelError, match="transformers has a class with registers for Dinov2Model"):
        convert(where, to="registers", images=(str(photos),), output=out, steps=1)
    with pytest.raises(UsageError, match="worth nothing untrained; say for how long, --steps N"):
        convert(where, to="registers", images=(str(photos),), output=out)
    assert not out.exists()
