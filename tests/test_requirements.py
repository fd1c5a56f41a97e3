"""The lists of packages: complete, hashed, one version of each, and what is installed is what they say."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LISTS = ROOT / "requirements"
TORCH = ("torch-cpu", "torch-pypi")
_PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;]+)")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(name: str) -> list[str]:
    """Requirements of a list, each with its hashes on one line."""
    text = (LISTS / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def pins(lines: list[str]) -> dict[str, str]:
    found = [_PIN.match(line) for line in lines]
    assert all(found), "every line pins one version"
    return {normal(pin[1]): pin[2] for pin in found if pin}


def constraints() -> dict[str, str]:
    return pins((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("name", ["build", "app", "dev", *TORCH])
def test_every_package_of_a_list_has_a_version_and_hashes(name: str) -> None:
    lines = entries(name)
    assert len(pins(lines)) == len(lines) > 0
    for line in lines:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", line), line


def test_the_lists_are_of_one_mind_with_the_constraints() -> None:
    known = constraints()
    for name in ("app", "dev", "torch-pypi"):
        for package, version in pins(entries(name)).items():
            assert known.get(package, version) == version, f"{package} in {name}: run make lock"
    assert pins(entries("app")).items() <= pins(entries("dev")).items()
    assert {pins(entries(name))["torch"].removesuffix("+cpu") for name in TORCH} == {known["torch"]}


def test_the_app_s_own_pins_are_in_the_lists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        "app": project["dependencies"],
        "dev": [line for extra in project["optional-dependencies"].values() for line in extra],
    }
    for name, lines in wanted.items():
        listed = pins(entries(name)) | pins(entries("torch-pypi"))
        asked = pins([line for line in lines if not line.startswith("dr-encoder")])
        assert {package: listed.get(package) for package in asked} == asked, "run make lock"


def test_what_is_installed_is_what_the_lists_say() -> None:
    """The environment of ``make setup`` holds nothing beside the lists, torch with or without CUDA."""
    listed = pins(entries("dev")) | pins(entries("build")) | pins(entries("torch-pypi"))
    here = {normal(found.name): found.version.removesuffix("+cpu") for found in distributions()}
    here = {name: version for name, version in here.items() if name not in {"pip", "dr-encoder"}}
    assert {name: listed.get(name) for name in here} == here, "run make setup"


def test_a_file_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    """Offline, by pip itself: the way in which the lists are used does check what comes."""
    (tmp_path / "tampered").mkdir()
    (tmp_path / "tampered" / "six-1.17.0-py2.py3-none-any.whl").write_bytes(b"not what the list says")
    only = [line for line in entries("dev") if line.startswith("six==")]
    (tmp_path / "list.txt").write_text("\n".join(only), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--isolated", "--no-index", "--require-hashes", "--no-deps"]
    command += ["--find-links", str(tmp_path / "tampered"), "--target", str(tmp_path / "out"), "-r"]
    done = subprocess.run([*command, str(tmp_path / "list.txt")], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "out").exists()


def recipe(target: str) -> list[list[str]]:
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    text = done.stdout.replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]


def test_setup_installs_nothing_without_its_hash() -> None:
    installs = [" ".join(words) for words in recipe("setup") if "install" in words]
    assert len(installs) == 4
    for command in installs:
        assert "--require-hashes" in command or command.endswith("--no-deps --no-build-isolation -e ."), command


def test_the_bill_of_materials_names_what_is_installed(tmp_path: Path) -> None:
    words = next(words for words in recipe("sbom") if words[0].endswith("cyclonedx-py"))
    made = tmp_path / "sbom.json"
    python = sys.executable
    done = subprocess.run(
        [python, "-m", "cyclonedx_py", "environment", python, *words[3:-1], str(made)],
        cwd=ROOT, capture_output=True, encoding="utf-8", check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    bill = json.loads(made.read_text(encoding="utf-8"))
    named = {normal(part["name"]): part["version"] for part in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "dr-encoder"
    assert {"flwr", "torch", "transformers", "dp-accounting"} <= set(named)
    assert named["flwr"] == constraints()["flwr"]
    assert str(ROOT) not in made.read_text(encoding="utf-8"), "the machine's own paths"
