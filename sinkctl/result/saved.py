"""Results that were kept: a run folder, or its result.json."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sinkctl.errors import SinkctlError, UsageError
from sinkctl.result.schema import SCHEMA_VERSION, Result
from sinkctl.result.store import ENVIRONMENT, RESULT, resumable
from sinkctl.small_file import bytes_of


def read(
    path: str | Path, wrong: type[SinkctlError] = UsageError, missing: str = "name a run folder, what -o made"
) -> Result:
    """The result in this run folder or file; `wrong` for anything else, `missing` says what to do without one."""
    path = Path(path)
    if path.is_dir():
        if not (path / RESULT).exists():
            begun = resumable(path)
            unfinished = f"is not finished; go on with --resume {path}"
            raise wrong(f"{path}: {unfinished if begun else f'holds no run of sinkctl; {missing}'}")
        path = path / RESULT
    try:
        text = bytes_of(path)
        data = json.loads(text.decode("utf-8")) if text.strip() else None
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        what = "no such file or folder" if absent else f"cannot be read ({error.strerror})"
        raise wrong(f"{path}: {what}; {missing}") from error
    except ValueError as error:
        if path.suffix != ".json" and not text.startswith(b"{"):
            raise wrong(f"{path}: is no result of a run; {missing}") from error
        raise wrong(f"{path}: is no JSON ({error}), as if cut short; get it again") from error
    if data is None:
        raise wrong(f"{path}: is empty, as after a download that failed; get it again")
    if not isinstance(data, dict) or "task" not in data:
        raise wrong(f"{path}: is not a result of sinkctl")
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise wrong(f"{path}: is of schema version {version}, this sinkctl reads {SCHEMA_VERSION}; measure it again")
    try:
        return Result.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise wrong(f"{path}: is damaged ({where}: {first['msg']}); measure it again") from error


def environment(path: str | Path) -> dict[str, Any]:
    """What env.json of a run folder says; nothing where there is none."""
    try:
        return json.loads((Path(path) / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
