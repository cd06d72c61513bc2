"""Thresholds: their grammar, and what each side of the limit means."""

import pytest

from sinkctl.errors import UsageError
from sinkctl.result.compare import Threshold, check_names, parse


def test_a_threshold_names_what_must_hold():
    assert parse("4+252.perplexity<=30") == Threshold("4+252.perplexity", "<=", 30)
    assert parse("stream.tokens_per_s >= 1e3") == Threshold("stream.tokens_per_s", ">=", 1000)
    assert parse("perplexity<=30").holds(30)
    assert not parse("perplexity<=30").holds(30.001)
    assert parse("stream.tokens_per_s>=1000").holds(1000)


@pytest.mark.parametrize("wrong", ["perplexity", "perplexity<30", "perplexity<=", "<=3", "perplexity<=many"])
def test_anything_else_is_refused(wrong):
    with pytest.raises(UsageError, match="METRIC<=NUMBER"):
        parse(wrong)


def test_a_metric_that_is_never_measured_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'perplexity'"):
        check_names([parse("perplexty<=3")], ["perplexity", "sink_rate"])
