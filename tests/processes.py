"""Command lines in processes of their own, forked from one that has imported what a run needs: a fresh one takes 8 s.

Signals, readers that have enough and exit codes are those of any process.
"""

import multiprocessing
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from tempfile import TemporaryFile

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "sinkctl.api.streams",
        "sinkctl.api.generation",
        "sinkctl.api.conversion",
        "sinkctl.api.measurement",
        "sinkctl.cli",
        "sinkctl.report.console",
        "sinkctl.report.html",
        "jinja2",
        "matplotlib.backends.backend_agg",  # each page of a kept run would take 0.7 s to import it
        "matplotlib.backends.backend_svg",
        "rich.progress",
        "transformers.models.llama.modeling_llama",
    ]
)


class Command:
    """`sinkctl …` in a process of its own; what it says is kept, its stdout only where no other file is given."""

    def __init__(self, *words, stdin=None, stdout=None, before: Callable[[], None] | None = None, **environment: str):
        """`before`, a function of this module, is called there first; `environment` is added to this process's."""
        self._said = (TemporaryFile(), TemporaryFile())  # noqa: SIM115 (they go with this)
        with open(os.devnull, "rb") as nothing:
            files = (stdin or nothing, stdout or self._said[0], self._said[1])
            # A Connection is how multiprocessing hands a file descriptor on.
            handles = [Connection(os.dup(file.fileno())) for file in files]
        words, environment = [str(word) for word in words], {**os.environ, **environment}
        self._process = SERVER.Process(target=_run, args=(words, handles, environment, before), daemon=True)
        self._process.start()
        for handle in handles:
            handle.close()

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def wait(self) -> int:
        """The exit code; a signal's is negative."""
        self._process.join(120)
        assert self.poll() is not None, "has not ended"
        return self.poll()

    def ended(self) -> tuple[int, str, str]:
        """(exit code, stdout, stderr), once it has ended."""
        code = self.wait()
        for file in self._said:
            file.seek(0)
        return code, *(file.read().decode() for file in self._said)


def launched(words, processes: int = 2, **how) -> list[Command]:
    """As torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [Command(*words, RANK=str(n), LOCAL_RANK=str(n), **common, **how) for n in range(processes)]


def _run(words: list[str], handles: list[Connection], environment: dict[str, str], before) -> None:
    import torch
    from pictures import are_written, only_put_together

    from sinkctl.cli import main

    for number, handle in enumerate(handles):
        os.dup2(handle.fileno(), number)
        handle.close()
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", closefd=False) for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    if not are_written(environment.get("PYTEST_CURRENT_TEST", "")):
        only_put_together()
    sys.argv = ["sinkctl", *words]
    if before is not None:
        before()
    main()


def saving_often() -> None:
    """A checkpoint after every block, so that kills fall on every stage of writing one."""
    from sinkctl.tasks.stream import kept

    kept.SAVE_SECONDS, kept.SAVE_SHARE = 0, 1e9


def in_small_parts() -> None:
    """Saving often, every file of a few hundred bytes a part."""
    from sinkctl.tasks.stream import parts

    saving_often()
    parts.LEAST = 100


def held_at_a_state() -> None:
    """In small parts; the second process goes no farther than its first state, to be killed there."""
    from sinkctl.result.store import RunFolder

    in_small_parts()
    if os.environ["RANK"] == "1":
        save = RunFolder.save_state

        def held(*what) -> None:
            save(*what)
            time.sleep(120)

        RunFolder.save_state = held


def piped(line: str) -> list[tuple[int, str]]:
    """Run `… | …` as a shell does, its output for nobody; (exit code, what sinkctl says on stderr) of every part."""
    source, running = None, []
    for name, *words in (shlex.split(part) for part in line.split("|")):
        drain, sink = (os.fdopen(end, mode) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
        if name == "sinkctl":
            running.append(Command(*words, stdin=source, stdout=sink))
        else:
            running.append(subprocess.Popen([name, *words], stdin=source, stdout=sink))
        sink.close()
        if source is not None:
            source.close()
        source = drain
    with source:
        source.read()
    return [part.ended()[::2] if isinstance(part, Command) else (part.wait(), "") for part in running]
