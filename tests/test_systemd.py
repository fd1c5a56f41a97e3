"""The units for machines without containers: the commands of deploy-demo, each with no more than it needs."""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import TLS, options
from workbench.deployment import commands, submit
from workbench.deployment.certificates import Certificates

ROOT = Path(__file__).parents[1]
UNITS = {
    "dr-encoder-superlink": "superlink",
    "dr-encoder-server-superexec": "server-superexec",
    "dr-encoder-supernode": "supernode",
    "dr-encoder-site-superexec": "site-superexec",
}
RUN = "dr-encoder-run@"
BINARIES = "/opt/dr-encoder/venv/bin"
CREDENTIALS = "${CREDENTIALS_DIRECTORY}"


def text_of(unit: str) -> str:
    return (ROOT / "systemd" / f"{unit}.service").read_text()


def settings(unit: str) -> dict[str, list[str]]:
    """Every setting of a unit with its values in order, continued lines joined."""
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n\s*", "", text_of(unit)).splitlines():
        if line and line[0] not in "#[":
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


def command(unit: str) -> list[str]:
    (line,) = settings(unit)["ExecStart"]
    return shlex.split(line)


def values(words: list[str]) -> dict[str, str]:
    """Options that have a value, in the form of the units: ``--name value``."""
    following = zip(words, [*words[1:], "--"], strict=True)
    return {word: value for word, value in following if word.startswith("--") and not value.startswith("--")}


def test_there_is_a_unit_for_every_process() -> None:
    assert {path.stem for path in (ROOT / "systemd").glob("*.service")} == {*UNITS, RUN}


@pytest.mark.parametrize(("unit", "process"), UNITS.items())
def test_a_unit_runs_the_command_of_deploy_demo(unit: str, process: str) -> None:
    words = command(unit)
    assert words[0] == f"{BINARIES}/{TLS[process][0]}"
    assert options(words) == options(TLS[process])
    assert set(values(words)) == set(values(TLS[process])), "an option has a value in both or in neither"


def test_addresses_and_isolation_are_those_of_deploy_demo() -> None:
    """Their values too, where they do not name files."""
    none, certificates = Path("/none"), Certificates(Path("/none"), Path("/none"), Path("/none"))
    demo = {
        "dr-encoder-superlink": commands.superlink(8000, certificates, none, none),
        "dr-encoder-server-superexec": commands.server_superexec("localhost:8000", none, none),
        "dr-encoder-supernode": commands.supernode("${SUPERLINK}", 9094, none, none, none, {}, local=certificates),
        "dr-encoder-site-superexec": commands.client_superexec(9094, none, none),
    }
    for unit, expected in demo.items():
        for option, value in values(expected).items():
            if value not in {"/none", ""}:
                assert values(command(unit))[option] == value, (unit, option)


@pytest.mark.parametrize("unit", UNITS)
def test_a_key_is_shown_to_its_service_alone(unit: str) -> None:
    loaded = {entry.split(":")[0] for entry in settings(unit)["LoadCredential"]}
    used = {word.removeprefix(f"{CREDENTIALS}/") for word in command(unit) if word.startswith(CREDENTIALS)}
    assert loaded == used
    if unit.endswith("superexec"):
        assert loaded == {"superexec.secret"}, "submitted code could send away whatever lies beside it"


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_confined_and_comes_back(unit: str) -> None:
    found = settings(unit)
    for name, value in {
        "LimitCORE": "0", "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "", "ProtectSystem": "strict", "ProtectHome": "yes",
        "PrivateTmp": "yes", "RestrictNamespaces": "yes", "Restart": "always", "StartLimitIntervalSec": "0",
    }.items():  # fmt: skip
        assert found[name] == [value], name
    runs_code = unit.endswith("superexec")
    assert found["User"] == found["StateDirectory"] == ["dr-encoder-app" if runs_code else "dr-encoder-link"]
    assert (found.get("IPAddressDeny"), found.get("IPAddressAllow")) == (
        (["any"], ["localhost"]) if runs_code else (None, None)
    )
    assert ("PrivateDevices" in found) is (unit != "dr-encoder-site-superexec"), "the one that needs a GPU"
    users = (ROOT / "systemd" / "dr-encoder.sysusers.conf").read_text()
    assert f"\nu {found['User'][0]} " in users


@pytest.mark.parametrize("unit", [*UNITS, RUN])
def test_what_a_unit_keeps_is_its_user_s_alone(unit: str) -> None:
    """systemd gives a folder that several units have the mode of the one that was started last."""
    assert settings(unit)["StateDirectoryMode"] == ["0700"]
    assert settings(unit)["UMask"] == ["0077"]


def test_what_a_unit_waits_for_is_there_and_its_end_is_not_the_other_s() -> None:
    """A superexec outlives its SuperLink or SuperNode, as under deploy-demo: a wish and an order, no requirement."""
    for unit in UNITS:
        found = settings(unit)
        assert found["Wants"] == found["After"]
        assert found["Wants"][0].removesuffix(".service") in {*UNITS, "network-online.target"}
        assert not {"Requires", "BindsTo"} & set(found)
        partner = ["dr-encoder-site-superexec.service"] if unit == "dr-encoder-supernode" else None
        assert found.get("PartOf") == partner, "one may hang when the other is stopped: they restart together"


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_s_memory_has_an_end_and_nothing_wants_a_home_folder(unit: str) -> None:
    found = settings(unit)
    assert found["MemoryMax"] == ["85%" if unit.endswith("superexec") else "4G"]
    if unit.endswith("superexec"):
        assert "MPLCONFIGDIR=%S/dr-encoder-app/matplotlib" in " ".join(found["Environment"]).split()


def test_a_run_is_tried_again_a_bounded_number_of_times_and_confined() -> None:
    found = settings(RUN)
    assert (found["Restart"], found["StartLimitBurst"], found["StartLimitIntervalSec"]) == (
        ["on-failure"],
        ["5"],
        ["86400"],
    )
    words = command(RUN)
    assert words[1:3] == ["-m", "workbench.deployment.submit"]
    assert set(inspect.signature(submit.submit).parameters) >= {
        option[2:].replace("-", "_") for option in options(words)
    }
    for name in ("NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp", "IPAddressDeny", "MemoryMax"):
        assert name in found


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-sysusers --root changes owners, so it needs root")
def test_systemd_makes_both_users(tmp_path: Path) -> None:
    """It ends with 0 even if it has skipped every line, so the users are looked for."""
    (tmp_path / "etc").mkdir()
    program, file = shutil.which("systemd-sysusers") or "", ROOT / "systemd" / "dr-encoder.sysusers.conf"
    done = subprocess.run(
        [program, f"--root={tmp_path}", "-"], stdin=file.open(), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr.replace("Creating user", "").count("not a valid")) == (0, 0), done.stderr
    users = {line.split(":")[0] for line in (tmp_path / "etc" / "passwd").read_text().splitlines()}
    assert {f"dr-encoder-{kind}" for kind in ("link", "app")} <= users


def test_the_site_s_own_words_arrive_as_one_argument() -> None:
    """``${NAME}`` stays one word in systemd, blanks and quotes included; the file quotes it for systemd."""
    lines = (ROOT / "systemd" / "site.env").read_text().splitlines()
    given = dict(shlex.split(line)[0].split("=", 1) for line in lines if line[0] != "#")
    assert values(command("dr-encoder-supernode"))["--superlink"] == "${SUPERLINK}"
    assert values(command("dr-encoder-supernode"))["--node-config"] == "${NODE_CONFIG}"
    assert set(given) == {"SUPERLINK", "NODE_CONFIG", "NODE_OPTIONS"}
    assert command("dr-encoder-supernode")[-1] == "$NODE_OPTIONS", "without braces: as many words as it has, or none"
    assert given["NODE_CONFIG"].split()[0] == 'data-path="/srv/dr-encoder/site.jsonl"'


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_itself_finds_nothing_to_say(tmp_path: Path) -> None:
    """Unknown settings, wrong values, programs that are not there: of all units at once, for these programs."""
    for unit in (*UNITS, RUN):
        (tmp_path / f"{unit}.service").write_text(text_of(unit).replace(BINARIES, str(Path(sys.executable).parent)))
    program = shutil.which("systemd-analyze") or ""
    done = subprocess.run(
        [program, "verify", "--man=no", *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "dr-encoder" in line]
    assert (done.returncode, ours) == (0, [])
