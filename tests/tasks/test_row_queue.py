"""Rows side by side: which process gets which GPU, what comes first, and what is said of a row that fails."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from row_queue import Job, hopeful, run_queue, visible

CHILD = """
import os, sys, time
name = sys.argv[2]
open(sys.argv[0] + "." + name, "w").write(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
if name == "bad":
    print("progress")
    sys.exit("bad: no such thing")
time.sleep(0.5)
"""


def test_rows_share_out_gpus_in_their_order_and_a_failed_one_says_its_last_words(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    jobs = [Job("long", 3, 9.0), Job("bad", 0, 2.0), Job("short", 0, 1.0)]
    ended = []
    run_queue(jobs, ["5", "7"], 1, tmp_path, [str(script)], lambda job, error: ended.append((job.name, error)))
    assert sorted(ended) == [("bad", "bad: no such thing"), ("long", None), ("short", None)]
    used = {name: (tmp_path / f"child.py.{name}").read_text() for name in ("long", "bad", "short")}
    assert {used["long"], used["bad"]} == {"5", "7"}
    assert used["short"] == used["bad"]  # the longer one's GPU is still taken
    assert [path.name for path in tmp_path.glob("*.log")] == ["bad-0.log"]


def test_a_row_that_would_not_end_in_time_is_not_begun_and_a_shorter_one_is(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    jobs = [Job("first", 0, 1.0), Job("long", 0, 1000.0), Job("short", 0, 1.0)]  # a unit takes 0.5 s or more
    ended = {}
    run_queue(jobs, [], 1, tmp_path, [str(script)], lambda job, error: ended.update({job.name: error}), limit=100)
    assert ended["first"] is ended["short"] is None
    assert ended["long"].startswith("not begun: ")
    assert not (tmp_path / "child.py.long").exists()


def test_a_row_is_expected_to_take_what_the_faster_ones_took():
    assert hopeful([233.0, 234.0, 105.0, 73.0, 180.0]) == 105.0
    assert hopeful([7.0]) == 7.0


def test_gpus_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert visible(2) == ["3", "1"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible(2) == ["0", "1"]
