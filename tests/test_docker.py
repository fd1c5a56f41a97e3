"""The container files, as far as they can be checked without an engine: what they copy, mount and run."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from server_app.deployment import commands
from server_app.deployment.certificates import Certificates

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
COMPOSE = ["compose.yml", "compose.tls.yml"]
NOTHING = Path("/none")
SERVICE = {
    "type": "object",
    "required": ["image", "command", "init", "restart", "cap_drop", "security_opt"],
    "properties": {
        "image": {"type": "string"},
        "build": {"type": "object", "required": ["context", "dockerfile"], "additionalProperties": {"type": "string"}},
        "command": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "init": {"const": True},
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "read_only": {"type": "boolean"},
        "tmpfs": {"type": "array", "items": {"type": "string"}},
        "cap_drop": {"const": ["ALL"]},
        "security_opt": {"const": ["no-new-privileges:true"]},
        "networks": {"type": "array"},
        "network_mode": {"type": "string", "pattern": "^service:"},
        "profiles": {"type": "array", "items": {"enum": ["server", "site"]}},
        "ports": {"type": "array", "items": {"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"}},
        "volumes": {"type": "array", "items": {"type": "string", "pattern": "^[^:]+(:-[^}]*})?:/[^:]+(:ro)?$"}},
        "logging": {"type": "object"},
        "depends_on": {"type": ["array", "object"]},
        "deploy": {"type": "object"},
        "healthcheck": {
            "type": "object",
            "required": ["test", "interval", "timeout", "retries", "start_period"],
            "properties": {"test": {"type": "array", "items": {"type": "string"}}, "retries": {"type": "integer"}},
        },
    },
    "additionalProperties": False,
}
FILE = {
    "type": "object",
    "required": ["name", "services", "volumes"],
    "properties": {"services": {"type": "object", "additionalProperties": SERVICE}},
    "patternProperties": {"^x-|^name$|^volumes$|^networks$": {}},
    "additionalProperties": False,
}


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text())
    return loaded


def options(command: list[str]) -> set[str]:
    return {part.split("=")[0] for part in command if part.startswith("--")}


def dockerfile() -> list[list[str]]:
    text = re.sub(r"\\\n\s*", " ", (DOCKER / "Dockerfile").read_text())
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", COMPOSE)
def test_a_compose_file_has_only_what_is_known_and_what_it_names_is_there(name: str) -> None:
    file = load(name)
    Draft202012Validator(FILE).validate(file)
    for service in file["services"].values():
        assert set(service.get("depends_on", [])) <= set(file["services"])
        assert set(service.get("networks", [])) <= set(file.get("networks", {}))
        assert service.get("network_mode", "service:").removeprefix("service:") in {"", *file["services"]}
        named = {volume.split(":")[0] for volume in service.get("volumes", []) if volume[0] not in ".$"}
        assert named <= set(file["volumes"])


@pytest.mark.parametrize("name", COMPOSE)
def test_the_image_is_that_of_this_version(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {service["image"] for service in load(name)["services"].values()} == {f"dr-encoder:{version}"}


def test_the_tls_file_runs_the_commands_of_deploy_demo() -> None:
    """The same programs with the same options; the values are paths and addresses of the containers."""
    certificates = Certificates(NOTHING, NOTHING, NOTHING)
    demo = {
        "superlink": commands.superlink(1, certificates, NOTHING, NOTHING),
        "server-superexec": commands.server_superexec("x", NOTHING, NOTHING),
        "supernode": commands.supernode("x", 1, NOTHING, NOTHING, NOTHING, {}),
        "site-superexec": commands.client_superexec(1, NOTHING),
    }
    services = load("compose.tls.yml")["services"]
    assert set(services) == set(demo)
    for name, command in demo.items():
        assert services[name]["command"][0] == command[0]
        assert options(services[name]["command"]) == options(command), name


def test_only_the_site_s_own_superexec_sees_data_and_accelerator() -> None:
    services = load("compose.tls.yml")["services"]
    assert [name for name, service in services.items() if any(":/data" in v for v in service["volumes"])] == [
        "site-superexec"
    ]
    assert [name for name, service in services.items() if "deploy" in service] == ["site-superexec"]
    mounted = [volume for service in services.values() for volume in service["volumes"]]
    assert all(volume.endswith(":ro") for volume in mounted if any(k in volume for k in ("keys", "certif", "/data")))


def test_what_runs_submitted_code_sees_no_key_but_its_own_secret() -> None:
    """A ServerApp or ClientApp could send away whatever is mounted beside it."""
    for name, service in load("compose.tls.yml")["services"].items():
        keys = [volume for volume in service["volumes"] if "/keys" in volume]
        if name.endswith("superexec"):
            assert [volume.split(":")[1] for volume in keys] == ["/keys/superexec.secret"], name


def test_no_profile_needs_a_variable_of_the_other() -> None:
    """Compose fills in the whole file before it looks at profiles, so a required variable stops both."""
    assert ":?" not in "".join(" ".join(s["command"]) for s in load("compose.tls.yml")["services"].values())


def test_the_demonstration_publishes_no_port_and_has_no_way_out() -> None:
    file = load("compose.yml")
    assert not any("ports" in service for service in file["services"].values())
    assert file["networks"] == {"federation": {"internal": True}}


def test_what_the_dockerfile_copies_is_there_and_let_in() -> None:
    allowed = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = [source for words in dockerfile() if words[0] == "COPY" for source in words[1:-1]]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].values()
    assert {script.split(".")[0] for script in scripts} <= set(copied), "the commands of the app"
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in allowed


def test_the_image_is_pinned_and_runs_as_an_ordinary_user() -> None:
    lines = dockerfile()
    base = next(words[1] for words in lines if words[0] == "FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    assert [words[1] for words in lines if words[0] == "USER"] == ["flower"]
    position = {words[0]: index for index, words in enumerate(lines)}
    assert position["USER"] > position["RUN"], "nothing is built after the change of user"
    assert "-c constraints.txt" in " ".join(next(words for words in lines if "pip" in words))
