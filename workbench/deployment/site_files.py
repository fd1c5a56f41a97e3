"""The files that ``dr-encoder check-site`` reads; imports nothing heavy."""

import shlex
from pathlib import Path
from typing import Any

from common.config import ConfigError, RunConfig
from workbench.simulation.launcher import read_toml


def read_site_env(path: Path) -> dict[str, str]:
    """The assignments of a unit's environment file, quoted as systemd reads them.

    Raises ``ConfigError`` for a file that holds neither of those that are looked for, so is not the unit's.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        words = [shlex.split(line) for line in lines if line and line[0] not in "#;"]
    except OSError as error:
        raise ConfigError(f"--site-env {path}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or a quote that does not end
        raise ConfigError(f"--site-env {path}: no environment file: {error}") from None
    found = dict(word[0].split("=", 1) for word in words if word and "=" in word[0])
    if not {"SUPERLINK", "NODE_CONFIG"} & found.keys():
        raise ConfigError(f"--site-env {path}: sets neither SUPERLINK nor NODE_CONFIG; give the unit's site.env")
    return found


def read_run(path: Path | None) -> dict[str, Any]:
    """All keys of a run: the defaults, and over them those of a TOML file."""
    given = read_toml(path, f'--config "{path}"') if path else {}
    return dict(RunConfig.parse(given).flat())
