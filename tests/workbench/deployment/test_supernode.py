"""A site's limits are read whole, or its SuperNode does not start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from client_app.node_config import PolicyRefusal
from workbench.deployment.site_check import check_site
from workbench.deployment.supernode import read_node_config

LOST = (
    *("max-releases = 3", "max-releases= 3", "max-releases =3", "max-releases:3", "require-secure-aggregation"),
    *("max-releases=3 ,", 'models="a" b', "=", "max-releases\n=\n3"),
)


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("form", ['data-path="/d" {} max-epsilon=8.0', "{}", "max-epsilon=8.0 {}"])
def test_what_flower_passes_over_is_refused_by_its_first_word(form: str, lost: str) -> None:
    text = form.format(lost)
    assert len(parse_config_args([text])) <= text.count("=") - lost.count("=") + 1, "Flower says nothing"
    with pytest.raises(ValueError, match=r"belongs to no key=value; write key=value, no blank beside the ="):
        read_node_config(text)
    first, *_ = check_site(text, {}, "", "")
    assert not first.passed
    assert "belongs to no key=value" in first.text


@pytest.mark.parametrize("text", ["max-releases=3 #max-epsilon=1.0", "max-releases=3#x", "#", 'models="a" # b'])
def test_what_a_reader_of_toml_takes_for_a_remark_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"#.* would not be read"):
        read_node_config(text)
    assert read_node_config('models="/m#1"') == {"models": "/m#1"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "partition-id=0 num-partitions=3",
        "data-path='/a b/d.jsonl'  max-epsilon=8.0\n\tmax-releases=3",
        'data-path="/d" models="demo,/m x" require-secure-aggregation=true max-clip-norm=0.5',
    ],
)
def test_what_flower_reads_whole_is_read_as_flower_does(text: str) -> None:
    assert read_node_config(text) == parse_config_args([text] if text else [])


@pytest.mark.parametrize("text", ["max-epsilon=8.0,", "max-epsilon=1 max-epsilon=2", "data-path=/d", "max-epsilon=8,0"])
def test_values_that_are_none_and_keys_said_twice_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_node_config(text)


def test_a_file_is_read_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("max-releases = 3\n")
    assert read_node_config(str(tmp_path / "site.toml")) == {"max-releases": 3}
    with pytest.raises(ValueError, match="No such file"):
        read_node_config(str(tmp_path / "other.toml"))


def test_an_unknown_limit_is_refused_before_any_message() -> None:
    with pytest.raises(PolicyRefusal, match="did you mean max-releases"):
        read_node_config('data-path="/d" max-release=3')
    with pytest.raises(PolicyRefusal, match="did you mean max-releases"):
        read_node_config("max-relases=3")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('max-epsilon="8"', "a number of at least 0"),
        ("max-epsilon=true", "a number of at least 0"),
        ("max-clip-norm=-1.0", "a number of at least 0"),
        ("max-releases=2.5", "a whole number"),
        ("min-peers=0", "at least 1"),
        ("max-length=1", "at least 2"),
        ('require-secure-aggregation="true"', "true or false without quotes"),
        ('data-path="site.jsonl"', "an absolute file name"),
        ("answer-seconds='5'", "a number of at least 0"),
        ("models=7", "a text in quotes"),
    ],
)
def test_a_value_that_every_message_would_be_refused_for_is_refused_at_once(text: str, right: str) -> None:
    with pytest.raises(PolicyRefusal, match=f"node config {text.partition('=')[0]}.*write {right}"):
        read_node_config(text)


@pytest.mark.parametrize("text", ["max-releases = 3", "max-releases=3 max-epsilom=1.0", 'max-epsilon="8"'])
def test_a_supernode_does_not_start_with_limits_that_it_cannot_read(text: str, tmp_path: Path) -> None:
    environment = {**os.environ, "FLWR_HOME": str(tmp_path), "FLWR_TELEMETRY_ENABLED": "0"}
    command = (sys.executable, "-P", "-m", "workbench.deployment.supernode")
    options = ("--insecure", "--superlink", "127.0.0.1:9", "--node-config", text)
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("node config")
    assert "Traceback" not in done.stderr
