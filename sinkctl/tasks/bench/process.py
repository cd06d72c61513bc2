"""The other end of a worker: starts it, asks, and ends it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import sinkctl.errors
from sinkctl.errors import KILLED, REPORT, SinkctlError, UnforeseenError
from sinkctl.result.source import ROOT

PROTOCOL = 1  # of the questions and answers; another version may have another


class DiedError(SinkctlError):
    """A worker ended by itself, or was killed."""


class KilledError(DiedError):
    """For memory, as it seems."""


class Worker:
    """A worker process at work on a recipe; use it in a `with`."""

    def __init__(
        self, recipe: dict[str, Any], *, python: str = sys.executable, name: str = "",
        told: Callable[[str, float], None] = lambda what, share: None,
    ):  # fmt: skip
        """`python` is the interpreter, of another version's environment if need be; `name` is said in errors."""
        self._told, self._name = told, name
        threads = recipe.get("timing", {}).get("threads")
        environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
        if python == sys.executable:  # this very version, not one that is installed
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        debug = os.environ.get("SINKCTL_DEBUG") == "1"
        # -P: the folder one happens to stand in is not looked into for packages.
        self._process = subprocess.Popen(
            [python, "-P", "-m", "sinkctl.tasks.bench.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None if debug else subprocess.DEVNULL,
            text=True, encoding="utf-8", env=environment, start_new_session=True,  # Ctrl-C is for who asks
        )  # fmt: skip
        try:
            protocol = self.ask("start", recipe=recipe)
            if protocol != PROTOCOL:
                raise SinkctlError(f"{name}: measures differently (protocol {protocol}, here {PROTOCOL})")
        except BaseException:
            self.end()
            raise

    def ask(self, do: str, **request: Any) -> Any:
        """Its answer; SinkctlError of the kind it raised, UnforeseenError for a fault of its own, or what ended it."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        for line in self._process.stdout:
            if not line.endswith("\n"):  # it ended in the midst of it
                break
            message = json.loads(line)
            if "told" in message:
                self._told(*message["told"])
            elif "error" in message:
                if message["kind"] is None:
                    raise UnforeseenError(f"{self._who}: {message['error']}. {REPORT}")
                raise getattr(sinkctl.errors, message["kind"], SinkctlError)(message["error"])
            else:
                return message["answer"]
        raise self._died()

    def end(self) -> None:
        """Kill it, with every process that it started: nothing they hold is worth waiting for."""
        if os.name == "nt":
            self._process.kill()
        else:
            with suppress(ProcessLookupError):  # none of them is left
                os.killpg(self._process.pid, signal.SIGKILL)  # the group that a session of its own gave it
        self._process.wait()
        with suppress(OSError):  # what it never read cannot be sent any more
            self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self.end()

    @property
    def _who(self) -> str:
        return f"the process that measures{f' {self._name}' if self._name else ''}"

    def _died(self) -> DiedError:
        status = self._process.wait()
        said = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
        if status == KILLED:
            return KilledError(f"{self._who}: {said} (killed for memory?)")
        return DiedError(f"{self._who}: {said}; SINKCTL_DEBUG=1 shows all it wrote")
