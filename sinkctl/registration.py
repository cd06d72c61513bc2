"""Teach transformers' auto classes the checkpoints that sinkctl writes with code of their own, once they are there.

Importing this imports neither transformers nor torch.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

AUTO = "transformers.models.auto.modeling_auto"


class _WhenImported(MetaPathFinder):
    """Registers right after the auto classes are first imported."""

    def find_spec(self, name, path=None, target=None):
        if name != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module) -> None:
            execute(module)
            _register()

        spec.loader.exec_module = exec_module
        return spec


def _register() -> None:
    from sinkctl.registers.code import register as register_registers
    from sinkctl.sinks.code import register as register_sinks

    register_sinks()
    register_registers()


def register_when_imported() -> None:
    """At once where the auto classes are imported already."""
    if AUTO in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _WhenImported())
