"""A worker of `sinkctl bench` without a process of its own: the same questions and answers, through JSON as well."""

import json

from sinkctl.tasks.bench.session import Session


class InProcess:
    """Stands in for `Worker`."""

    def __init__(self, recipe, *, python, name, told):
        self.name = name  # of the version
        self._session = Session(json.loads(json.dumps(recipe)), told)

    def ask(self, do, **request):
        answer = getattr(self._session, do)(**request)
        return json.loads(json.dumps(answer))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session.close()
