"""What a run ran on, as far as it can be known without a GPU."""

import os
from types import SimpleNamespace

import pytest

from sinkctl.result import environment
from sinkctl.result.environment import bytecode, machine

UUID = "0d95a1a2-0000-1111-2222-333344445555"


def test_a_gpu_is_found_by_its_uuid_among_what_nvidia_smi_lists(tmp_path, monkeypatch):
    told = (
        "GPU-ffff, 1.0, 1 MHz, 2 MHz, 3 W, 4",
        f"GPU-{UUID}, 580.95.05, 345 MHz, 1980 MHz, [N/A], 31",
    )
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\n" + "".join(f'echo "{line}"\n' for line in told))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert environment._nvidia()[UUID] == {
        "driver": "580.95.05",
        "sm_clock": "345 MHz",
        "sm_clock_max": "1980 MHz",
        "temperature_celsius": "31",
    }
    assert "another" not in environment._nvidia()
    script.write_text("#!/bin/sh\nexit 9\n")
    assert environment._nvidia() == {}


def test_a_machine_without_a_gpu_is_its_processor_and_how_many_of_it():
    found = machine("cpu", "float32", "f00d")
    assert found.device == f"{environment.processor()} × {os.cpu_count()}"
    assert (found.threads, found.dtype, found.model) == (1, "float32", "f00d")
    assert set(found.versions) == {"python", "torch", "transformers", "triton"}


def test_what_cannot_change_while_a_process_runs_is_asked_for_once(monkeypatch):
    first = environment.environment()
    monkeypatch.setattr(environment, "source", lambda: pytest.fail("git is asked again"))
    monkeypatch.setattr(environment.importlib.metadata, "version", lambda name: pytest.fail(f"{name} is asked again"))
    assert environment.environment() == first


@pytest.mark.parametrize(
    ("forbidden", "said"), [(True, "PYTHONDONTWRITEBYTECODE is set"), (False, "their folders cannot be written")]
)
def test_a_python_that_compiles_its_imports_at_every_start_is_told(forbidden, said, monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "find_spec", lambda name: SimpleNamespace(cached=str(tmp_path / name)))
    monkeypatch.setattr(environment.sys, "dont_write_bytecode", forbidden)
    told = bytecode()
    assert told.startswith("none of torch and transformers")
    assert said in told
    assert told.endswith("and unset that") == forbidden
    (tmp_path / "torch").touch()
    assert bytecode().startswith("none of transformers:")
    (tmp_path / "transformers").touch()
    assert bytecode() == "kept"
