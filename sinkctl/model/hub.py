"""Whether a Hub id can be had, and what a mistyped name may have meant; before torch is imported."""

import difflib
import os
import threading
from pathlib import Path

from sinkctl.errors import ModelError
from sinkctl.model.named import CONFIG, Named

WAIT = 3.0  # seconds for the Hub's answer, where HF_HUB_ETAG_TIMEOUT says nothing else


def check_hub_id(name: str, named: Named, revision: str | None = None) -> None:
    """ModelError for what is no Hub id, and for one that is neither in the Hub's cache nor to be had."""
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
    seconds = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", WAIT))
    if (why := _refused(named.source, named.file or CONFIG, revision, seconds)) is not None:
        raise ModelError(f"{name}: no such folder here, and {why}{meant(name)}")


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


def _refused(repository: str, file: str, revision: str | None, seconds: float) -> str | None:
    """Why the Hub does not give a file; None where it does, or has the repository without it: loading tells the rest.

    A thread, as a name server may keep one waiting for longer.
    """
    from huggingface_hub import constants

    found = [f"the Hugging Face Hub ({constants.ENDPOINT}) cannot be reached"]
    thread = threading.Thread(target=lambda: found.append(_answer(repository, file, revision, seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[-1]


def _answer(repository: str, file: str, revision: str | None, seconds: float) -> str | None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub = f"the Hugging Face Hub ({constants.ENDPOINT})"
    try:
        get_hf_file_metadata(hf_hub_url(repository, file, revision=revision), timeout=seconds)
    except EntryNotFoundError:
        return None
    except GatedRepoError:
        return f"{hub} gives it to those who accept its terms on its page: `hf auth login`, or HF_TOKEN, says who asks"
    except RepositoryNotFoundError:
        return f"{hub} has no such model, or a private one: `hf auth login`, or HF_TOKEN, says who asks"
    except RevisionNotFoundError:
        return f"{hub} has no --revision {revision} of it"
    except HfHubHTTPError as error:
        return f"{hub} answers with HTTP status {error.response.status_code}"
    except Exception:  # of whichever library huggingface_hub asks by
        return f"{hub} cannot be reached"
    return None
