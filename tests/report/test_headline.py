"""The three figures a page begins with."""

import pytest
from benched_example import bench_result
from example_result import curve, policy, result, stream_result
from measured_example import checkpoint, measure_result
from test_convert_report import converted, trained

from sinkctl.report.page import headline


def test_a_stream_begins_with_its_perplexity_and_what_the_worst_policy_costs():
    policies = [
        policy("4+252", curve([20.0]), perplexity=20.0, common_perplexity=20.0),
        policy("0+256", curve([30.0]), perplexity=30.0, common_perplexity=30.0),
        policy("1+255", curve([21.0]), perplexity=21.0, common_perplexity=21.0),
    ]
    assert headline(stream_result(policies)) == [
        ("20.00", "perplexity with 4+252"), ("+50.0 %", "perplexity with 0+256 instead"), ("3,760 tok/s", "speed")
    ]  # fmt: skip


def test_a_measurement_begins_with_rate_and_cost_and_two_with_their_difference():
    one = headline(measure_result(checkpoint("demo")))
    assert [said for said, _ in one] == ["73.6 %", "+87.2 % ± 3.4", "3,026"]
    assert [said for said, _ in headline(measure_result())] == ["73.6 %", "73.6 %", "+0.0 points"]


def test_a_conversion_begins_with_its_perplexity_the_original_and_the_control():
    assert [said for said, _ in headline(converted())] == ["20.50", "+2.5 %", "30.00"]  # no control: without the token
    assert [said for said, _ in headline(trained())] == ["18.00", "-9.6 %", "18.30"]  # 18 / 19.9


def test_a_benchmark_begins_with_its_gates():
    assert headline(bench_result())[:2] == [("2 of 3", "gates hold"), ("2.00×", "as fast as stock: stream, 4+252")]


@pytest.mark.parametrize("empty", [result(), stream_result([]), bench_result(rows=[], changes=[])])
def test_what_was_not_measured_is_left_out(empty):
    assert all(said and "nan" not in said for said, _ in headline(empty))
    assert len(headline(empty)) <= 3
