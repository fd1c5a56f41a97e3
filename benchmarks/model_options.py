"""The options of benchmarks that measure one model on one file of rows."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.config import Scalar
from workbench.llm_demo.visits import write_visits


def model_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with ``--model``, ``--data`` and ``--format``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder, .gguf file, or folder that holds one")
    parser.add_argument("--data", default="", help="file of rows")
    parser.add_argument("--format", default="columns", help="its layout, as data.format")
    return parser


@contextmanager
def model_keys(arguments: argparse.Namespace) -> Iterator[dict[str, Scalar]]:
    """The keys of a run that they name; without ``--data`` the rows of ``make demo-llm``, while the block lasts."""
    with tempfile.TemporaryDirectory() as scratch:
        own = arguments.data or str(write_visits(Path(scratch))[0])
        yield {"model.name": arguments.model, "data.name": own, "data.format": arguments.format}
