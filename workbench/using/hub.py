"""An exported folder to a repository of the Hugging Face hub."""

from pathlib import Path

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from server_app.errors import CommandError
from workbench.using.exporting import CARD

_LOUD = "**Not differentially private"


def warning_of(folder: Path) -> str:
    """What whoever publishes ``folder`` must know, or ``""``."""
    if not (folder / CARD).exists():
        return f"no {CARD} in {folder}: whoever loads it will not know under which terms it was trained"
    text = (folder / CARD).read_text(encoding="utf-8")
    return "its card says that no epsilon holds for it" if _LOUD in text or "INSECURE TEST RUN" in text else ""


def push(folder: Path, repository: str, *, public: bool) -> str:
    """Upload every file of ``folder`` in one commit, into a new repository or the caller's own; returns the address.

    Private unless ``public``; an existing repository stays as it is. Raises ``CommandError`` in one line.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload by DR-Encoder for Flower"
        )
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise CommandError(
            f'--push-to "{repository}": {said[0]} (is this a login that may write? `hf auth login`). {folder} is whole'
        ) from error
    return str(done.commit_url)
