"""Registers of vision transformers, one way to get them a file: settings, and the code that goes into checkpoints."""

from typing import Annotated

from pydantic import Field

from sinkctl.registers.registers import Registers
from sinkctl.registers.test_time_registers import TestTimeRegisters

AnyRegisters = Annotated[TestTimeRegisters | Registers, Field(discriminator="kind")]
REGISTERS = {"test_time_registers": TestTimeRegisters, "registers": Registers}
__all__ = ["REGISTERS", "AnyRegisters", "Registers", "TestTimeRegisters"]
