"""The container files, as far as they can be checked without an engine: what they copy, mount, join and run."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft202012Validator, ValidationError
from typer.main import get_command

from common.config import RunConfig, flatten
from tests.support.commands import CERTIFICATES, NOTHING, TLS, options
from tests.support.compose_files import DOCKER, FILES, SIGNED, Missing, filled_in, load
from workbench.deployment import commands, signed_apps
from workbench.deployment.demo import SITES, demo_config

ROOT = DOCKER.parent
# The schema of the Compose Specification itself (Apache-2.0), as the package check-jsonschema carries it.
SCHEMA = json.loads((files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
# What a demonstration without certificates, keys and secrets does without.
PROOFS = {
    *("--ssl-ca-certfile", "--ssl-certfile", "--ssl-keyfile", "--enable-supernode-auth", "--root-certificates"),
    *("--auth-supernode-private-key", "--superexec-auth-secret-file"),
}

# A site's superexec is in a network with its SuperNode and nobody else: no certificate is needed to tell them apart.
LOOPBACK = {"--ssl-ca-certfile", "--ssl-certfile", "--ssl-keyfile"}


def values(command: list[str]) -> dict[str, str]:
    """Options with values, in the form of the compose files: ``--name=value``."""
    return dict(part.split("=", 1) for part in command if part.startswith("--") and "=" in part)


def joined(service: dict[str, Any]) -> set[str]:
    return set(service["networks"])


def dockerfile() -> list[list[str]]:
    text = re.sub(r"\\\n\s*", " ", (DOCKER / "Dockerfile").read_text())
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def mounts(service: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Source, target and whether it is read-only, of everything named that a service mounts."""
    found = []
    for volume in service.get("volumes", []):
        if isinstance(volume, dict):
            found.append((volume["source"], volume["target"], volume.get("read_only", False)))
        elif ":" in volume:
            source, target, *mode = volume.split(":")
            found.append((source, target, mode == ["ro"]))
    return found


def on_the_host(service: dict[str, Any]) -> list[str]:
    """Paths of the host that a service mounts."""
    return [source for source, _, _ in mounts(service) if source.startswith(".")]


@pytest.mark.parametrize("name", FILES)
def test_a_compose_file_is_one_of_the_compose_specification(name: str) -> None:
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"], "an older validator passes over half of it"
    Draft202012Validator(SCHEMA).validate(load(name))


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [("superlink", "healtcheck", {}), ("superlink", "ports", {"a": 1}), ("supernode", "depends_on", "superlink")],
)
def test_the_specification_s_schema_finds_mistakes(service: str, key: str, value: Any) -> None:
    file = load("compose.tls.yml")
    file["services"][service][key] = value
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMA).validate(file)


def test_variables_are_filled_in_as_compose_does_it() -> None:
    assert filled_in({"a": ["${X:-y}", "${X}", "$$X", 1]}, {"X": "z"}) == {"a": ["z", "z", "$X", 1]}
    assert filled_in("${X:-y}", {"X": ""}) == "y"
    for text in ("${X:?say}", "$X", "${X}"):
        with pytest.raises(Missing):
            filled_in(text, {})


@pytest.mark.parametrize("name", FILES)
def test_what_a_compose_file_names_is_there(name: str) -> None:
    file = load(name)
    for service in file["services"].values():
        assert set(service.get("depends_on", [])) <= set(file["services"])
        assert joined(service) <= set(file["networks"])
        named = [v.split(":")[0] for v in service.get("volumes", []) if isinstance(v, str) and ":" in v]
        assert {source for source in named if source[0] not in "./"} <= set(file["volumes"])
    used = {network for service in file["services"].values() for network in joined(service)}
    assert used == set(file["networks"])


def test_what_the_demonstration_mounts_is_in_the_repository_or_is_to_be_made() -> None:
    """The TLS file mounts keys and data, which are nobody's but the site's."""
    mounted = {path for service in load("compose.yml")["services"].values() for path in on_the_host(service)}
    assert mounted == {"../results", "./demo/config.toml", "./demo/run.toml"}
    assert all((DOCKER / path).is_file() for path in mounted - {"../results"})


@pytest.mark.parametrize("name", FILES)
def test_every_service_is_confined_and_tells_of_its_health(name: str) -> None:
    for of, service in load(name)["services"].items():
        assert service["init"] is True, of
        assert service["read_only"] is True, of
        assert service["cap_drop"] == ["ALL"], of
        assert service["ulimits"] == {"core": 0}, f"{of}: a core file has rows and keys"
        assert service["security_opt"] == ["no-new-privileges:true"], of
        assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "user"} & set(service), of
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), of
        if of != "operator":  # it ends
            assert service["restart"] == "unless-stopped", of
            words = service["healthcheck"]["test"]
            assert words[:4] == ["CMD", "python", "-m", "workbench.deployment.health"], of
            assert urlsplit(words[4]).port, of


@pytest.mark.parametrize("name", FILES)
def test_podman_4_takes_a_compose_file(name: str) -> None:
    """It knows neither ``uid=`` for a tmpfs nor a health check whose words have blanks: seen with 4.3."""
    for of, service in load(name)["services"].items():
        assert [mount.split(":")[1] for mount in service["tmpfs"]] == ["mode=1777"], of
        assert not any(" " in word for word in service.get("healthcheck", {}).get("test", [])), of


def test_what_reads_requests_before_it_knows_who_asks_has_an_end_to_its_memory() -> None:
    services = load("compose.tls.yml")["services"]
    assert {of for of, service in services.items() if "mem_limit" in service} == {"superlink", "supernode"}


@pytest.mark.parametrize("name", FILES)
def test_the_image_is_that_of_this_version_or_one_given_by_digest(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {service["image"] for service in load(name)["services"].values()} == {f"dr-encoder:{version}"}
    pinned = load(name, {"IMAGE": "registry/dr-encoder@sha256:abc"})["services"].values()
    assert {service["image"] for service in pinned} == {"registry/dr-encoder@sha256:abc"}


def test_the_tls_file_runs_the_commands_of_deploy_demo() -> None:
    """The same programs with the same options; the values are paths and addresses of the containers."""
    services = load("compose.tls.yml")["services"]
    assert set(services) == set(TLS)
    for name, command in TLS.items():
        assert services[name]["command"][0] == command[0]
        expected = options(command)
        if name == "supernode":
            expected -= LOOPBACK
        if name == "site-superexec":
            expected = expected - {"--root-certificates"} | {"--insecure"}
        assert options(services[name]["command"]) == expected, name


def test_the_demonstration_runs_the_commands_of_deploy_demo_without_the_proofs() -> None:
    services = load("compose.yml")["services"]
    expected = {"superlink": TLS["superlink"], "server-superexec": TLS["server-superexec"]}
    for site in SITES:
        expected |= {site: TLS["supernode"], f"{site}-superexec": TLS["site-superexec"]}
    assert set(services) == {*expected, "operator"}
    for name, command in expected.items():
        assert services[name]["command"][0] == command[0]
        assert options(services[name]["command"]) == (options(command) - PROOFS) | {"--insecure"}, name
    configs = [values(services[site]["command"])["--node-config"] for site in SITES]
    assert configs == [f"partition-id={n} num-partitions={len(SITES)}" for n in range(len(SITES))]


def test_the_operator_submits_the_run_of_deploy_demo_and_results_reach_the_host() -> None:
    services = load("compose.yml")["services"]
    command, mounts = services["operator"]["command"], services["operator"]["volumes"]
    assert command[:3] == ["python", "-m", "workbench.deployment.submit"]
    assert services["operator"]["profiles"] == ["operator"], "`up` alone submits nothing"
    assert values(command) == {"--app": "/app", "--config": "/demo/run.toml"}
    assert ["WORKDIR", "/app"] in dockerfile()
    assert {"./demo/config.toml:/var/lib/flower/config.toml:ro", "./demo/run.toml:/demo/run.toml:ro"} <= set(mounts)
    connection = tomllib.loads((DOCKER / "demo" / "config.toml").read_text())["superlink"]
    assert connection["default"] == command[3] == "demo"
    assert connection["demo"] == {"address": "superlink:8000", "insecure": True}
    keys = flatten(tomllib.loads((DOCKER / "demo" / "run.toml").read_text()))
    run = RunConfig.parse(keys | {"output.name": "x"})
    assert run == demo_config(3, Path("/results"), "x")
    mounts = [volume for volume in services["server-superexec"]["volumes"] if isinstance(volume, dict)]
    assert [(mount["source"], mount["target"]) for mount in mounts] == [("../results", run.output.dir)]
    assert mounts[0]["bind"] == {"create_host_path": False}


@pytest.mark.parametrize(("name", "nodes"), [("compose.yml", SITES), ("compose.tls.yml", ("supernode",))])
def test_a_supernode_is_found_by_its_superexec_however_often_it_is_restarted(name: str, nodes: tuple[str, ...]) -> None:
    """A network of these two alone, and a name in it: the address behind it may change, the network never goes."""
    file = load(name)
    for node in nodes:
        superexec = {"supernode": "site-superexec"}.get(node, f"{node}-superexec")
        (network,) = joined(file["services"][superexec])
        assert {of for of, service in file["services"].items() if network in joined(service)} == {node, superexec}
        assert file["networks"][network] == {"internal": True}
        assert file["services"][node]["networks"][network] == {"aliases": ["runtime"]}
        served, asked = file["services"][node]["command"], file["services"][superexec]["command"]
        assert values(served)["--host"] == "runtime", "bound to that network only"
        assert values(asked)["--runtime-api-address"] == f"runtime:{values(served)['--port']}"
        assert values(asked)["--runtime-api-address"] in file["services"][superexec]["healthcheck"]["test"][4]


@pytest.mark.parametrize("name", FILES)
def test_what_runs_submitted_code_has_no_way_out(name: str) -> None:
    file = load(name)
    runs_code = {of: service for of, service in file["services"].items() if of.endswith("superexec")}
    assert runs_code
    for of, service in runs_code.items():
        assert all(file["networks"][network] == {"internal": True} for network in joined(service)), of


def test_only_the_site_s_own_superexec_sees_data_and_accelerator() -> None:
    services = load(SIGNED, {"DATA": "/elsewhere"})["services"]
    data = ("/elsewhere", "/data", True)
    assert [of for of, service in services.items() if data in mounts(service)] == ["site-superexec"]
    assert [of for of, service in services.items() if "deploy" in service] == ["site-superexec"]


def test_what_the_operator_or_the_site_brings_is_read_only_and_never_made_by_the_engine() -> None:
    """A forgotten key, certificate or data folder stops the start; models may be missing: the demo's is in the app."""
    services = load(SIGNED)["services"]
    mounted = [mount for service in services.values() for mount in mounts(service) if mount[0].startswith(".")]
    assert {source for source, _, _ in mounted} == {
        *("./certificates", "./keys/server", "./keys/server/superexec.secret"),
        *("./keys/site", "./keys/site/superexec.secret", "./data", "./models", "./shelf"),
    }
    assert all(read_only for _, _, read_only in mounted)
    for volume in [volume for service in services.values() for volume in service["volumes"]]:
        if isinstance(volume, dict):
            assert volume["bind"] == {"create_host_path": False}, volume
        else:
            assert volume.startswith("./models:") or not volume.startswith("."), volume


def test_what_runs_submitted_code_sees_no_key_but_its_own_secret() -> None:
    """A ServerApp or ClientApp could send away whatever is mounted beside it."""
    for name, service in load("compose.tls.yml")["services"].items():
        keys = [(source, target) for source, target, _ in mounts(service) if "keys" in source or "keys" in target]
        if name.endswith("superexec"):
            machine = name.removesuffix("-superexec")
            assert keys == [(f"./keys/{machine}/superexec.secret", "/keys/superexec.secret")], name


def test_a_site_that_asks_for_signatures_differs_in_that_alone() -> None:
    base = load("compose.tls.yml", {"LIMITS": "max-releases=7"})["services"]["supernode"]["command"]
    signed = load("compose.signed.yml", {"LIMITS": "max-releases=7"})
    Draft202012Validator(SCHEMA).validate(signed)
    at_site = {of: s for of, s in load(SIGNED)["services"].items() if s["profiles"] == ["site"]}
    assert set(signed["services"]) & set(at_site) == {"supernode"}
    assert signed["services"]["supernode"] == {"command": [*base, "--trusted-entities=/keys/trusted.yaml"]}
    command = commands.supernode("x", 1, NOTHING, NOTHING, NOTHING, {}, NOTHING, local=CERTIFICATES)
    assert options(signed["services"]["supernode"]["command"]) == options(command) - LOOPBACK


def test_the_shelf_is_found_by_the_superlink_and_by_nobody_else() -> None:
    file = load(SIGNED)
    shelf, superlink = file["services"]["shelf"], file["services"]["superlink"]
    assert shelf["profiles"] == superlink["profiles"] == ["server"]
    assert {of for of, service in file["services"].items() if "shelf" in joined(service)} == {"shelf", "superlink"}
    assert joined(shelf) == {"shelf"}
    assert file["networks"]["shelf"] == {"internal": True}
    before = load("compose.tls.yml")["services"]["superlink"]
    assert joined(superlink) == joined(before) | {"shelf"}
    program, arguments = shelf["command"][:3], shelf["command"][3:]
    assert program == ["python", "-m", "workbench.deployment.signed_apps"]
    commands_of_it: Any = get_command(signed_apps.app)
    parsed = commands_of_it.commands["serve"].make_context("serve", arguments[1:]).params
    assert (arguments[0], parsed["shelf"]) == ("serve", "/shelf")
    assert superlink["environment"] == {"FLWR_SUPERGRID_API_URL": f"http://{parsed['host']}:{parsed['port']}"}
    assert (parsed["host"], mounts(shelf)) == ("shelf", [("./shelf", "/shelf", True)])


def test_a_site_s_own_words_reach_its_supernode() -> None:
    file = load("compose.tls.yml", {"SUPERLINK": "fl.example.org:443", "LIMITS": "max-releases=7"})
    command = values(file["services"]["supernode"]["command"])
    assert command["--superlink"] == "fl.example.org:443"
    assert command["--node-config"] == 'data-path="/data/site.jsonl" max-releases=7'


def test_no_profile_needs_a_variable_of_the_other() -> None:
    """Compose fills in the whole file before it looks at profiles, so a required variable stops both."""
    assert load("compose.tls.yml", {})["services"]


def test_the_demonstration_publishes_no_port_and_has_no_way_out() -> None:
    file = load("compose.yml")
    assert not any("ports" in service for service in file["services"].values())
    assert all(network == {"internal": True} for network in file["networks"].values())


def test_what_the_dockerfile_copies_is_there_and_let_in() -> None:
    allowed = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = [source for words in dockerfile() if words[0] == "COPY" for source in words[1:-1]]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].values()
    assert {script.split(".")[0] for script in scripts} <= set(copied), "the commands of the app"
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in allowed


def test_the_dockerfile_passes_its_linter() -> None:
    """hadolint, of the development dependencies; every finding counts, style included."""
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program, "make setup brings hadolint"
    done = subprocess.run(
        [program, "--no-color", str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_image_is_pinned_and_runs_as_an_ordinary_user() -> None:
    lines = dockerfile()
    assert lines[:2] == [["ARG", lines[0][1]], ["FROM", "${BASE_IMAGE}"]]
    base = lines[0][1].removeprefix("BASE_IMAGE=")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    build = load("compose.yml")["services"]["superlink"]["build"]
    assert build["args"] == {"BASE_IMAGE": base}, "one default in both files"
    assert (DOCKER / build["context"]).resolve() == ROOT
    digest = load("compose.yml", {"BASE_IMAGE": "python@sha256:abc"})["services"]["superlink"]["build"]
    assert digest["args"] == {"BASE_IMAGE": "python@sha256:abc"}
    assert [words[1] for words in lines if words[0] == "USER"] == ["10001:10001"]
    position = {words[0]: index for index, words in enumerate(lines)}
    assert position["USER"] > position["RUN"], "nothing is built after the change of user"
    packages, app = (" ".join(words) for words in lines if words[:3] == ["RUN", "pip", "install"])
    assert "--require-hashes --no-deps --only-binary :all:" in packages
    assert "--no-deps --no-build-isolation . && pip check" in app, "nothing that is not in the lists"
