"""What must be the same for a stream to be continued."""

from collections.abc import Sequence
from typing import Any

from sinkctl import __version__
from sinkctl.errors import ResumeError
from sinkctl.model.load import LoadedModel
from sinkctl.tasks.stream.settle import Settled
from sinkctl.text import fingerprint


def identity(settled: Settled, loaded: LoadedModel, files: Sequence[str], whole: bool) -> dict[str, Any]:
    """Of a run over `files`; unless they are the `whole` run's, the recipe's own list of files is left out."""
    left_out = {"fail_on": True} | ({} if whole else {"text": {"files": True}})
    return {
        "version": __version__,
        "recipe": settled.recipe.model_dump(mode="json", exclude=left_out),
        "model": loaded.fingerprint,
        "dtype": str(loaded.dtype),
        "device": loaded.device.type,
        "text": fingerprint(files),
    }


def check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """ResumeError where a run was started with anything else."""
    for key, value in now.items():
        if before.get(key) != value:
            raise ResumeError(_changed(key, before.get(key), value))


def _changed(key: str, before: Any, now: Any) -> str:
    if key == "recipe":
        before = before or {}
        keys = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
        return f"the recipe changed since this run was started ({', '.join(keys)}); start a new run"
    if key == "text":
        names = [b["path"] for b, n in zip(before or [], now, strict=False) if b != n]
        return f"the text changed since this run was started ({', '.join(names) or 'other files'}); start a new run"
    return f"the {key} changed since this run was started ({before} before, {now} now); start a new run"
