"""Names of files and folders as a run elsewhere can find them."""

from pathlib import Path

from common.config import RunConfig, Scalar
from common.file_names import names_a_file


def absolute_paths(config: RunConfig) -> dict[str, Scalar]:
    """The keys that name something on this machine, with the absolute name: runs happen elsewhere."""
    absolute: dict[str, Scalar] = {}
    for key in ("data.evaluation", "data.validation"):
        named = str(config.flat()[key])
        if named and (names_a_file(named) or Path(named).exists()):
            absolute[key] = str(Path(named).resolve())
    if config.data.name != "demo" and Path(config.data.name).exists():
        absolute["data.name"] = str(Path(config.data.name).resolve())
    if config.model.name != "demo" and Path(config.model.name).exists():
        absolute["model.name"] = str(Path(config.model.name).resolve())
    return absolute
