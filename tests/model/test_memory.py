"""Blocks as large as a GPU's multiprocessors share out evenly."""

import pytest

from sinkctl.model.memory import in_waves


@pytest.mark.parametrize(
    ("processors", "tokens"), [(132, 16_896), (108, 13_824), (128, 16_384), (58, 14_848), (40, 15_360), (300, 16_384)]
)
def test_a_block_is_so_many_tiles_for_every_multiprocessor_of_a_gpu(processors, tokens):
    assert in_waves(16_384, processors) == tokens
