"""Who is let in: only registered keys, over TLS, to a server that the site's authority vouches for."""

import httpx
import pytest

from tests.faults.conftest import Field, wait_for
from workbench.deployment import commands
from workbench.deployment.certificates import make_certificates, make_node_key
from workbench.deployment.federation import Site
from workbench.simulation.launcher import free_ports

pytestmark = pytest.mark.faults


def start_stranger(field: Field, name: str, **changes: object) -> None:
    """A SuperNode whose key was never registered, or that trusts another authority."""
    federation = field.federation
    key = federation.folder / "keys" / name
    make_node_key(key)
    given = {"authority": federation.certificates.authority, **changes}
    command = commands.supernode(
        federation.address, free_ports(1)[0], given["authority"], key, federation._secret(name), {"partition-id": 9},
        local=federation.certificates,
    )  # type: ignore[arg-type]  # fmt: skip
    federation.processes.start(name, command, federation.environment(name), federation.folder / "home" / name)


def test_a_node_whose_key_is_not_registered_is_turned_away(field: Field) -> None:
    start_stranger(field, "stranger")
    wait_for(lambda: field.federation.processes.exit_code("stranger") is not None, 120, "the stranger was let in")
    print(f"OBSERVED unregistered: code {field.federation.processes.exit_code('stranger')}: {field.log('stranger')}")
    assert field.federation.processes.exit_code("stranger") not in {0, None}
    assert "SuperNode ID" not in field.log("stranger")


def test_a_node_does_not_speak_to_a_server_of_another_authority(field: Field) -> None:
    other = make_certificates(field.federation.folder / "other").authority
    start_stranger(field, "deceived", authority=other)
    wait_for(lambda: "certificate" in field.log("deceived").lower(), 120, "nothing was said of the certificate")
    print(f"OBSERVED wrong CA: code {field.federation.processes.exit_code('deceived')}: {field.log('deceived')}")
    assert "SuperNode ID" not in field.log("deceived")
    field.federation.processes.stop("deceived")


def test_plaintext_to_the_tls_port_is_no_request(field: Field) -> None:
    with pytest.raises(httpx.TransportError) as raised:
        httpx.get(f"http://{field.federation.address}/health", timeout=10.0)
    print(f"OBSERVED plaintext: {raised.value!r}")


def test_registered_sites_are_listed_as_online(field: Field) -> None:
    def online() -> bool:
        listing = field.federation.flwr("supernode", "list", "deployment")
        return [node["status"] for node in listing["nodes"]].count("online") == len(field.sites)

    wait_for(online, 120, "not all registered sites came online")
    assert isinstance(next(iter(field.sites.values())), Site)
