"""Changes between two runs: what is worse, by how much, and when a gate fails."""

import math
import re

import pytest
from bench_rows import result, row, run, timed

from sinkctl.errors import ThresholdError, UnmeasuredError, UsageError
from sinkctl.result.bench import BenchDetail, Change
from sinkctl.result.compare import Tolerance, check_names, gate_names, judge, parse, parse_gate, thresholds
from sinkctl.result.regression import changes

FIVE = [Tolerance("stream.4+252.ms", 5)]


def ours(now, before, gates=(), paired=False) -> Change:
    return next(c for c in changes(now, before, gates, paired, seed=0) if "stock" not in c.name)


def test_a_machine_that_is_slower_as_a_whole_is_no_regression():
    change = ours(timed(1, machine=1.5), timed(2), FIVE)
    assert abs(change.percent) < 2
    assert change.raw_percent == pytest.approx(50, abs=15)
    assert change.limit == 5
    assert not change.failed


@pytest.mark.parametrize("machine", [0.7, 1.0, 1.5])
def test_code_that_is_slower_is_found_whatever_the_machine_does(machine):
    change = ours(timed(1, slower=1.15, machine=machine), timed(2), FIVE)
    assert change.low < 15 < change.high
    assert change.high - change.low < 4
    assert change.failed


def test_noise_alone_fails_no_gate():
    failed = [ours(timed(s, noise=0.03), timed(1000 + s, noise=0.03), [Tolerance("stream.ms", 1)]) for s in range(60)]
    assert sum(change.percent > 1 for change in failed) > 6  # the percentage alone would
    assert sum(change.failed for change in failed) <= 2


def test_a_large_change_whose_intervals_meet_does_not_fail():
    before = run([row([[10.0, 10.0, 14.0, 10.0, 14.0, 10.0, 14.0]])])
    now = run([row([[14.0, 14.0, 10.0, 14.0, 10.0, 14.0, 10.0]])])
    change = ours(now, before, FIVE)
    assert change.percent == pytest.approx(40)
    assert not change.failed


def test_a_rate_is_worse_by_what_it_drops():
    before, now = (run([row([[v] * 5], metric="tokens_per_s")]) for v in (41200.0, 35900.0))
    change = ours(now, before)
    assert (change.percent, change.raw_percent) == pytest.approx([100 * (1 - 35900 / 41200)] * 2)
    assert ours(before, now).percent < 0
    slow = ours(timed(1, slower=1.25, machine=2, metric="tokens_per_s"), timed(2, metric="tokens_per_s"))
    assert slow.percent == pytest.approx(20, abs=2)  # 1 − 1 / 1.25


def test_two_versions_timed_in_turns_are_compared_round_by_round():
    drift = [1.0, 3.0, 0.5, 2.0, 1.5, 1.0, 5.0]
    before = run([row([[10 * d for d in drift]])])
    now = run([row([[11 * d for d in drift]])])
    paired = ours(now, before, FIVE, paired=True)
    assert (paired.low, paired.percent, paired.high) == pytest.approx((10, 10, 10))
    assert paired.failed
    assert not ours(now, before, FIVE).failed  # drift hides it where rounds are not compared


def test_what_is_not_timed_is_compared_exactly():
    def quality(value: float) -> BenchDetail:
        return run([row([[value]], metric="peak_memory", case="memory", timed=False)])

    change = ours(quality(1.1e9), quality(1e9), [Tolerance("memory.peak_memory", 5)])
    assert change.low == change.percent == change.high == pytest.approx(10)
    assert change.failed
    assert ours(quality(3), quality(0)).percent == 100
    assert ours(quality(0), quality(0)).percent == 0


def test_only_rows_of_the_same_name_and_size_are_compared():
    before = run([row([[1.0] * 5], size={"sinks": 4, "window": 252, "chunk": 64}), row([[1.0] * 5], "stock")])
    now = run([row([[1.0] * 5], size={"sinks": 4, "window": 252, "chunk": 32}), row([[1.0] * 5], case="new")])
    assert changes(now, before, [], paired=False, seed=0) == []


def test_a_gate_on_a_case_means_ours_at_every_size_and_peers_only_in_full():
    sizes = [{"sinks": 4, "window": w} for w in (252, 508)]
    detail = run([row([[1.0] * 5], way, size=size) for size in sizes for way in ("sinkctl", "stock")])

    def limits(*texts: str) -> dict[str, float]:
        found = changes(detail, detail, [parse_gate(text) for text in texts], paired=False, seed=0)
        return {change.name: change.limit for change in found if change.limit is not None}

    assert limits("stream.ms:5%") == {"stream.4+252.ms": 5, "stream.4+508.ms": 5}
    assert limits("stream.ms:5%", "stream.4+508.ms: 2.5 %") == {"stream.4+252.ms": 5, "stream.4+508.ms": 2.5}
    assert limits("stream.4+252.stock.ms:1%") == {"stream.4+252.stock.ms": 1}
    assert limits("stream.stock.ms:1%") == {}
    with pytest.raises(UsageError, match=re.escape("did you mean 'stream.4+508.ms'")):
        check_names([parse_gate("stream.4+50.ms:5%")], gate_names(detail.rows))


def test_a_failed_gate_is_told_with_its_interval_and_what_is_allowed():
    change = Change(
        name="stream.4+252.ms", unit="tok/s", before=41200, now=35900, percent=13.0, low=12.1, high=14.2,
        raw_percent=12.98, limit=10, failed=True,
    )  # fmt: skip
    detail = timed(1).model_copy(update={"changes": [change]})
    with pytest.raises(ThresholdError) as error:
        judge(result(detail), [Tolerance("stream.ms", 10), Tolerance("stream.4+252.ms", 10)]).check()
    assert str(error.value) == ("stream.4+252.ms is worse by 13.0 % (12.1 … 14.2; allowed 10 %): 41,200 → 35,900 tok/s")


def test_what_could_not_be_measured_or_compared_is_no_failed_threshold_and_never_passes():
    with pytest.raises(UnmeasuredError, match=r"stream\.4\+252\.ms could not be compared with the baseline"):
        judge(result(timed(1)), [Tolerance("stream.ms", 10)]).check()
    with pytest.raises(UnmeasuredError, match=r"252\.mss could not be measured; stream\.4\+252\.ms was"):
        judge(result(timed(1)), [parse_gate("stream.4+252.mss<=1")]).check()
    nan = run([row([[math.nan]], size={"sinks": 4, "window": 252})])
    with pytest.raises(UnmeasuredError, match="nan"):
        judge(result(nan), [parse_gate("stream.ms<=1"), parse_gate("stream.ms>=1")]).check()
    with pytest.raises(ThresholdError, match=r"is .*, not <= 1; no could not be measured"):
        judge(result(timed(1)), [parse_gate("no<=1"), parse_gate("stream.ms<=1")]).check()


def test_an_absolute_threshold_of_a_benchmark_holds_every_size_to_it():
    detail = run([row([[v]], size={"sinks": 4, "window": w}) for w, v in ((252, 1.0), (508, 3.0))])
    with pytest.raises(ThresholdError, match=r"^stream\.4\+508\.ms is 3, not <= 2$"):
        judge(result(detail), [parse_gate("stream.ms<=2")]).check()
    asked = ["stream.ms<=3", "stream.ms:5%", "stream.ms<=2"]
    assert thresholds(result(detail).model_copy(update={"recipe": {"fail_on": asked}})) == [
        ("stream.ms<=3", True, ""),
        ("stream.ms<=2", False, "stream.4+508.ms is 3, not <= 2"),
    ]


def test_percentages_are_for_benchmarks():
    assert parse_gate("stream.4+252.tokens_per_s:5%") == Tolerance("stream.4+252.tokens_per_s", 5)
    assert parse_gate("perplexity<=30") == parse("perplexity<=30")
    with pytest.raises(UsageError, match="is for `sinkctl bench`"):
        parse("decode.ms_per_token:5%")
    for wrong in ("decode.ms_per_token:5", "decode.ms_per_token:-5%", ":5%", "decode.ms_per_token"):
        with pytest.raises(UsageError, match="METRIC:PERCENT%"):
            parse_gate(wrong)
