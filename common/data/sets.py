"""Rows of directories and of data sets of the Hugging Face hub: which files a subset and a split are.

``datasets`` knows the layouts (a README with configurations, splits by file name) and fetches from the hub; the files
themselves are read as every other, so that no type is guessed and no copy of them is written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import BuilderConfig, DownloadManager, ReadInstruction, disable_progress_bars, load_dataset_builder
from datasets import config as datasets_config
from datasets.data_files import FILES_TO_IGNORE
from datasets.exceptions import DatasetsError

from common.data.files import rows_of_file
from common.data.raw import FileFault, Row, RowFault, one_line
from common.file_names import KINDS, kind_of
from common.folders import walk_once

datasets_config.HF_UPDATE_DOWNLOAD_COUNTS = False  # who reads a local file calls nobody
disable_progress_bars()  # a client's terminal is the federation's log
_REMOTE = ("hf://", "https://", "http://")  # a README may name any file; ``datasets`` opens one of this machine as well
_FAULTS = (OSError, ValueError, RuntimeError, DatasetsError)
_README = "README.md"
_KNOWN = {"name", "version", "data_dir", "data_files", "description", "features", "sep", "delimiter"}


def rows_of_set(path: str, subset: str, split: str, revision: str, *, local: bool = False) -> Iterator[Row | RowFault]:
    """The rows of a local directory or of a hub data set, one at a time; those of a subset say so in ``subset``.

    ``subset`` may name several, comma-separated, which follow each other; ``split`` may be a slice or a sum, as
    ``datasets`` writes them (``train[:100]+test``). ``local``: the hub is not asked for what is no directory here.
    Raises ``FileFault``.
    """
    place = Path(path).expanduser()
    if local and not place.is_dir():
        raise FileFault("no such file or directory")
    if place.exists() and not place.is_dir():  # no name to ask the hub for
        raise FileFault("it is a file of another kind")
    names: list[str | None] = [name.strip() for name in subset.split(",") if name.strip()]
    for name in names or [None]:
        try:
            for row in _rows_of_split(_Files(path, name, revision), split):
                yield row if isinstance(row, RowFault) else _unfolded(row, name)
        except FileFault:
            raise
        except _FAULTS as error:
            raise FileFault(one_line(error.__cause__ or error)) from error


def _rows_of_split(files: "_Files", split: str) -> Iterator[Row | RowFault]:
    if split in files:
        return files.rows(split)
    parts = ReadInstruction.from_spec(split).to_absolute(files)
    return chain.from_iterable(islice(files.rows(part.splitname), part.from_, part.to) for part in parts)


def _unfolded(row: Row, subset: str | None) -> Row:
    inner = row.get("train")
    if len(row) == 1 and isinstance(inner, dict):  # cais/mmlu, subset auxiliary_train: the row is a record in there
        row = inner
    return {"subset": subset, **row} if subset else row


class _Files(Mapping[str, int]):
    """The files of a set's splits; as a mapping, the number of rows of each split, counted when asked for."""

    def __init__(self, path: str, subset: str | None, revision: str) -> None:
        folder = Path(path).expanduser()
        self._hub = not folder.is_dir()
        found = _hub_files(path, subset, revision) if self._hub else _local_files(folder.absolute(), subset)
        self._files, self._delimiter = found
        for file in chain(*self._files.values()):
            if self._hub and not file.startswith(_REMOTE):
                raise FileFault("its README names a file of this machine, which no set of the hub may")
            if not kind_of(Path(file)):
                raise FileFault(f'"{Path(file).name}" is none of {", ".join(KINDS)}')

    def __getitem__(self, split: str) -> int:
        return sum(1 for _ in self.rows(split))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, split: object) -> bool:
        return split in self._files

    def rows(self, split: str) -> Iterator[Row | RowFault]:
        """All rows of a split; from the hub its files come to the hub's own cache, for what is there is public."""
        files = DownloadManager().download(self._files[split]) if self._hub else self._files[split]
        return chain.from_iterable(rows_of_file(Path(file), self._delimiter) for file in files)


def _local_files(folder: Path, subset: str | None) -> tuple[dict[str, list[str]], str]:
    """By way of links, for ``datasets`` takes brackets and stars in a folder's own name for a pattern."""
    with TemporaryDirectory() as temporary:  # mode 0700; what datasets writes (a lock) goes with it
        root = Path(temporary).resolve() / "set"
        there = _mirror(folder, root)
        try:
            found, delimiter = _split_files(load_dataset_builder(str(root), subset, cache_dir=temporary).config)
        except _FAULTS as error:
            raise FileFault(one_line(error.__cause__ or error).replace(str(root), str(folder))) from error
        own = {split: [str(folder / Path(file).relative_to(root)) for file in files] for split, files in found.items()}
        if not (folder / _README).exists():
            _refuse_leftovers(there - set(chain(*own.values())))
        return own, delimiter


def _refuse_leftovers(files: set[str]) -> None:
    """``datasets`` takes the commonest kind of file, and where a split's name is in some, these alone."""
    if files:
        raise FileFault(
            f"{len(files)} of its files would not be read, {min(files)} for one: a directory's files are of one kind, "
            "and all of them or none have train, test or validation in their names; move the others away, or name the "
            "files of each split in a README.md"
        )


def _mirror(folder: Path, root: Path) -> set[str]:
    """Links to the files that can be read, and to the README, which says what is where; the data files among them."""
    found = set()
    root.mkdir()
    for place, names in walk_once(folder):
        for name in names:
            if kind_of(Path(name)) or name == _README:
                relative = Path(place).relative_to(folder) / name
                link = root / relative
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(place) / name)
                if name not in FILES_TO_IGNORE and not any(part.startswith((".", "__")) for part in relative.parts):
                    found.add(str(folder / relative))
    return found


def _hub_files(name: str, subset: str | None, revision: str) -> tuple[dict[str, list[str]], str]:
    return _split_files(load_dataset_builder(name, subset, revision=revision or None).config)


def _split_files(settings: BuilderConfig) -> tuple[dict[str, list[str]], str]:
    usual = type(settings)()
    others = {each.name for each in fields(settings) if getattr(settings, each.name) != getattr(usual, each.name)}
    if unknown := sorted(others - _KNOWN):
        raise FileFault(f"its README sets {', '.join(unknown)}, which this app doesn't read: write the files plainly")
    files = {str(split): [str(file) for file in listed] for split, listed in (settings.data_files or {}).items()}
    delimiter = getattr(settings, "delimiter", None) or getattr(settings, "sep", None)
    return files, delimiter if delimiter and delimiter != getattr(usual, "sep", None) else ""
