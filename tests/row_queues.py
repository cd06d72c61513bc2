"""A queue of rows, each a process, that all fail."""

import pytest


def rows_fail(script, monkeypatch, capsys) -> None:
    """Run a script of two rows: the exit code tells of both, and each says why once."""

    def queue(jobs, gpus, workers, folder, said, finished, limit):
        for job in jobs:
            finished(job, "no such text")

    monkeypatch.setattr(script, "run_queue", queue)
    with pytest.raises(SystemExit, match="2 of 2 rows failed"):
        script.main()
    assert capsys.readouterr().out.count("no such text") == 2
