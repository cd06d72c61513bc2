"""Whether a Hub id can be had, and what a mistyped name may have meant; before torch is imported."""

import difflib
import os
import re
import threading
from pathlib import Path

from sinkctl.errors import ModelError
from sinkctl.model.named import CONFIG, GGUF, WITHIN, Named, is_gguf

WAIT = 3.0  # seconds for the Hub's answer, where HF_HUB_ETAG_TIMEOUT says nothing else
# A page of the Hub, of a repository or of a GGUF file in it.
PAGE = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)(?P<id>[\w.-]+/[\w.-]+)"
    r"(?:/(?:blob|resolve)/[^/]+/(?P<file>[^?#]+\.gguf))?",
    re.IGNORECASE,
)


def check_hub_id(name: str, named: Named, revision: str | None = None) -> None:
    """ModelError for what is no Hub id, and for one that is neither in the Hub's cache nor to be had."""
    from huggingface_hub import constants
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(named.source)
    except HFValidationError as error:
        raise ModelError(
            f"{name}: no such {kind_asked(name)} here, and no Hub id (organisation/name){meant(name)}"
        ) from error
    kept = Path(constants.HF_HUB_CACHE) / f"models--{named.source.replace('/', '--')}"
    if kept.is_dir():
        return
    if constants.HF_HUB_OFFLINE:
        why = "not in the Hub's cache, and HF_HUB_OFFLINE keeps from asking the Hub"
    else:
        seconds = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", WAIT))
        refused = _refused(named.source, named.file or CONFIG, revision, seconds)
        why = refused and f"and {refused}"
    if why is not None:
        raise ModelError(f"{name}: no such {kind_asked(name)} here, {why}{meant(name)}")


def meant(name: str) -> str:
    """`; did you mean …?` of what is not there, where it is an address of the Hub's pages, or demo, a folder or a GGUF
    file beside is called nearly so; else nothing.
    """
    if (page := PAGE.match(name)) is not None:
        file = page["file"]
        return f"; did you mean {page['id']}{WITHIN}{file}?" if file else f"; did you mean {page['id']}?"
    if "://" in name:
        return ", but an address; download the checkpoint, and give its folder"
    path = Path(name)
    if name.startswith("~") and path.expanduser().exists():
        return f"; did you mean {path.expanduser()}?"
    if path.name == "demo":
        return "; did you mean demo?"
    parent = path.parent
    beside = [each.name for each in parent.iterdir() if each.is_dir() or is_gguf(each)] if parent.is_dir() else []
    known = beside + ["demo"] * (name == path.name)
    close = difflib.get_close_matches(path.name, known, n=1)
    if not close:
        return ""
    front = name[: len(name.rstrip("/")) - len(path.name)]
    return f"; did you mean {front}{close[0]}?"


def kind_asked(name: str) -> str:
    """What it would have been, by its name."""
    return "file" if name.lower().endswith(GGUF) else "folder"


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
