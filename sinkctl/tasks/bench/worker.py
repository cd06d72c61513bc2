"""A process of its own that measures: requests in, answers out, one JSON line each.

`python -m sinkctl.tasks.bench.worker`; requests are `{"do": "start" | "facts" | "open" | "round" | "close", …}`,
answers `{"answer": …}`, `{"error": …, "kind": …}`, and, before either, any number of `{"told": [what, share]}`.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from sinkctl.errors import SinkctlError, named
from sinkctl.tasks.bench.process import PROTOCOL


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer until the requests end."""

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    known: dict[str, Callable] = {}

    def start(recipe: dict[str, Any]) -> int:
        from transformers.utils import logging

        from sinkctl.tasks.bench.session import Session

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        session = Session(recipe, lambda what, share: say({"told": [what, share]}))
        known.update(facts=session.facts, open=session.open, round=session.round, close=session.close)
        return PROTOCOL

    known["start"] = start
    for line in requests:
        request = json.loads(line)
        try:
            say({"answer": known[request.pop("do")](**request)})
        except (SinkctlError, OSError) as error:
            say({"error": str(error), "kind": named(error) or SinkctlError.__name__})
        except Exception as error:  # the other side has no traceback otherwise
            traceback.print_exc()
            say({"error": " ".join(f"{type(error).__name__}: {error}".split())[:500], "kind": None})


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints does not end up among the answers
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
