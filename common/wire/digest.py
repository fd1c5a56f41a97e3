"""A hash of the app's own source, so that server and clients can tell when they run different code."""

import hashlib
from functools import lru_cache
from pathlib import Path

PACKAGES = ("client_app", "common")
ENTRY = "dr_encoder_client.py"


@lru_cache(maxsize=1)
def app_digest() -> str:
    """Short SHA-256 over every Python file that a client runs, by relative path and content."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    files = [root / ENTRY, *(path for package in PACKAGES for path in sorted((root / package).rglob("*.py")))]
    for path in files:
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
