"""A site that runs only what it has signed: refused without its signature, run with it, by real processes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Field, wait_for
from workbench.deployment.federation import LocalFederation, Site
from workbench.deployment.processes import Processes
from workbench.deployment.signed_apps import identity
from workbench.simulation.launcher import APP, free_ports

pytestmark = pytest.mark.faults


def shelf_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "workbench.deployment.signed_apps", *map(str, arguments)]


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=60)
    return path


def sign(bundle: Path, key: Path) -> None:
    """Under the site's name, whosever the key is."""
    subprocess.run(shelf_command("sign", bundle, "--key", key, "--name", "north"), check=True, timeout=120, cwd=APP)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This app as ``flwr build`` packs it, on a shelf without a signature."""
    folder: Path = tmp_path_factory.mktemp("shelf")
    flwr = Path(sys.executable).with_name("flwr")
    subprocess.run([flwr, "build", "--app", APP], cwd=folder, check=True, timeout=120, capture_output=True)
    (made,) = folder.glob("*.fab")
    return made


@pytest.fixture(scope="module")
def careful(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Field]:
    """One site that trusts its own key alone, and a SuperLink that takes apps from the shelf."""
    folder: Path = tmp_path_factory.mktemp("federation")
    key = make_key(folder / "site-key")
    trusted = folder / "trusted.yaml"
    trusted.write_text(f"north: {key.with_suffix('.pub').read_text()}")
    port = free_ports(1)[0]
    with Processes(folder / "logs") as processes:
        federation = LocalFederation(folder, processes, {"FLWR_SUPERGRID_API_URL": f"http://127.0.0.1:{port}"})
        serve = shelf_command("serve", bundle.parent, "--port", port)
        processes.start("shelf", serve, federation.environment("shelf"), APP)
        field = Field(federation)
        first = next(iter(field.sites.values()))
        field.sites = {first.name: Site(first.name, first.node_config, trusted)}
        field.start()
        yield field


def ended(field: Field, name: str, app: Path | str) -> tuple[str, str]:
    changes: dict[str, Any] = {"federation.max-failed-rounds": 1}
    run = field.federation.submit(field.config(name, rounds=1, **changes), app)
    return str(field.federation.wait(run, 600)["status"]), field.federation.run_log(run)


def test_only_what_the_site_has_signed_runs_there(careful: Field, bundle: Path) -> None:
    wait_for(lambda: "FLWR_SUPERGRID_API_URL" in careful.log("shelf"), 60, "the shelf did not start")

    status, log = ended(careful, "from-disk", APP)  # as anybody submits it: without any signature
    print(f"OBSERVED from disk: {status}: {log[-1500:]}")
    assert status != "finished:completed"
    assert "App verification is not supported by the connected SuperLink" in careful.log("north").replace("\n", " ")

    sign(bundle, make_key(careful.federation.folder / "stranger"))
    status, _ = ended(careful, "stranger", identity(bundle))  # the site's name, another key
    print(f"OBSERVED signed by a stranger: {status}")
    assert status != "finished:completed"
    assert "could not verify the FAB" in careful.log("north").replace("\n", " ")
    installed = careful.federation.folder / "home" / "north" / "bundles"
    assert not installed.exists(), "neither app was even unpacked at the site"

    sign(bundle, careful.federation.folder / "site-key")
    status, _ = ended(careful, "signed", identity(bundle))
    print(f"OBSERVED signed by the site: {status}")
    assert status == "finished:completed"
    assert careful.rounds_done("signed") == 1
    assert installed.exists(), "where a signed one is unpacked"
