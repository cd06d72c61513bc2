"""`sinkctl bench startup`: whole commands in processes of their own."""

import os
import select
import sys

import pytest

from sinkctl.check import check
from sinkctl.errors import SinkctlError, UsageError
from sinkctl.recipe.load import load
from sinkctl.recipe.named import built_in
from sinkctl.recipe.schema import BenchRecipe
from sinkctl.recipe.sizes import STARTUP, sizes
from sinkctl.tasks.bench.cases import startup
from sinkctl.tasks.bench.process import PROTOCOL, Worker
from sinkctl.tasks.bench.subject import Subject


def recipe_of(*assignments: str) -> BenchRecipe:
    once = ("timing.rounds=1", "timing.warmup=0", "model.device=cpu")
    return load(built_in()["bench/startup"], [*once, *assignments])


def test_the_phases_of_a_command_add_up_to_its_own_total_which_is_nearly_the_clocks():
    subject = Subject(recipe_of())
    case = subject.recipe.cases[0]
    found = {r.metric: r.value[0] for r in startup.group(case, subject, sizes(case)["stream,empty"]).readings}
    assert tuple(found) == STARTUP
    parts = sum(found[name] for name in STARTUP[2:])
    assert found["own"] == pytest.approx(parts)
    assert 0.6 * found["seconds"] < found["own"] <= found["seconds"]  # what is left is the end of the process
    assert min(found[name] for name in ("imports", "loading", "preparing", "first", "rest")) > 0
    broken = Subject(recipe_of("model.name=demo/gone"))
    with pytest.raises(SinkctlError, match="stream: demo/gone: no such folder"):
        startup.group(case, broken, sizes(case)["stream,empty"])
    with pytest.raises(UsageError, match="not with random weights; leave shape out"):
        check(recipe_of("shape=tiny"))


@pytest.mark.skipif(sys.platform == "win32", reason="processes have no groups there")
def test_a_command_under_way_ends_with_the_worker_that_runs_it(tmp_path):
    """As Ctrl-C ends it: `held` is open as long as the command runs."""
    os.mkfifo(tmp_path / "held")
    python = tmp_path / "python"
    answer = f"""read request; echo '{{"answer": {PROTOCOL}}}'"""
    python.write_text(f"#!/bin/sh\n{answer}\n(echo up; sleep 60) > {tmp_path}/held &\nwait\n")
    python.chmod(0o755)
    with Worker({}, python=str(python)), open(tmp_path / "held", "rb", buffering=0) as command:
        assert command.readline() == b"up\n"
        held = os.dup(command.fileno())
        assert not select.select([held], [], [], 0)[0]
    assert select.select([held], [], [], 20)[0]
    assert os.read(held, 1) == b""
    os.close(held)
