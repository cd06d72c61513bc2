"""Registers of vision transformers, one way to get them a file: settings, and the code that goes into checkpoints."""

from typing import Annotated

from pydantic import Field

from sinkctl.registers.test_time_registers import TestTimeRegisters

AnyRegisters = Annotated[TestTimeRegisters, Field(discriminator="kind")]
REGISTERS = {"test_time_registers": TestTimeRegisters}
__all__ = ["REGISTERS", "AnyRegisters", "TestTimeRegisters"]
