"""Whether a Hub id can be had, and what a mistyped name may have meant; before torch is imported."""

import difflib
import os
import threading
from pathlib import Path

from sinkctl.errors import ModelError
from sinkctl.model.named import Named

WAIT = 3.0  # seconds for the Hub's first answer, where HF_HUB_ETAG_TIMEOUT says nothing else


def check_hub_id(name: str, named: Named) -> None:
    """ModelError for what is no Hub id, and for one that is neither in the Hub's cache nor in reach."""
    from huggingface_hub import constants
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(named.source)
    except HFValidationError as error:
        raise ModelError(f"{name}: no such folder here, and no Hub id (organisation/name){meant(name)}") from error
    kept = Path(constants.HF_HUB_CACHE) / f"models--{named.source.replace('/', '--')}"
    if kept.is_dir():
        return
    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{name}: no such folder here, not in the Hub's cache, and HF_HUB_OFFLINE keeps from asking the Hub"
            f"{meant(name)}"
        )
    if not _answers(constants.ENDPOINT, float(os.environ.get("HF_HUB_ETAG_TIMEOUT", WAIT))):
        raise ModelError(
            f"{name}: no such folder here, and the Hugging Face Hub ({constants.ENDPOINT}) cannot be reached"
            f"{meant(name)}"
        )


def meant(name: str) -> str:
    """`; did you mean …?` where demo or a folder beside is called nearly so; else nothing."""
    path = Path(name)
    parent = path.parent
    beside = [each.name for each in parent.iterdir() if each.is_dir()] if parent.is_dir() else []
    known = beside + ["demo"] * (name == path.name)
    close = difflib.get_close_matches(path.name, known, n=1)
    if not close:
        return ""
    front = name[: len(name.rstrip("/")) - len(path.name)]
    return f"; did you mean {front}{close[0]}?"


def _answers(endpoint: str, seconds: float) -> bool:
    """Whether anything comes back, an error page too; a thread, as a name server may keep one waiting for longer."""
    answered: list[bool] = []

    def ask() -> None:
        from huggingface_hub import get_session

        try:
            get_session().head(endpoint, timeout=seconds)
        except Exception:  # of whichever library huggingface_hub asks by
            return
        answered.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answered)
