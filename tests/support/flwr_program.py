"""A stand-in for the program ``flwr``."""

from pathlib import Path


def write_flwr(folder: Path, text: str) -> None:
    """Put an executable ``flwr`` with this text into ``folder``, to be found where ``PATH`` begins with it."""
    (folder / "flwr").write_text(text, encoding="utf-8")
    (folder / "flwr").chmod(0o755)
