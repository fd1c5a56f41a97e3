"""A site's own limits."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from client_app import resident
from client_app.node_config import KEYS, PolicyRefusal, check_data_name
from client_app.policy import SitePolicy
from common.privacy.mechanism import ReleaseTerms, Trust
from tests.support.messages import instruction

read = SitePolicy.from_node_config
OWN = {"data-path": "/own.jsonl", "max-epsilon": 0.0, "ledger-path": "/spent.jsonl"}


def terms(noise: float = 1.0, clip_norm: float = 1.0, trust: Trust = "local", shares: int = 4) -> ReleaseTerms:
    return ReleaseTerms(16, clip_norm, noise, trust, shares, normalize=True)


def test_without_limits_everything_is_accepted() -> None:
    for noise in (0.0, 1.0):
        SitePolicy().check(terms(noise, clip_norm=1e6))
    SitePolicy().check(terms(), raw=True)


def test_too_little_noise_is_refused_naming_the_limit() -> None:
    policy = SitePolicy(min_noise_multiplier=2.0)
    policy.check(terms(2.001))
    with pytest.raises(PolicyRefusal, match=r"noise multiplier of its message = 1\.99.*min-noise-multiplier = 2\.0"):
        policy.check(terms(1.99))


def test_a_distributed_share_counts_only_as_what_it_hides_by_itself() -> None:
    """z = 2 over 16 shares is 1/2 on one message."""
    policy = SitePolicy(min_noise_multiplier=0.499)
    policy.check(terms(2.0, trust="distributed", shares=16))
    with pytest.raises(PolicyRefusal, match=r"min-noise-multiplier = 0\.499"):
        policy.check(terms(2.0, trust="distributed", shares=17))


def test_central_trust_is_a_message_without_noise() -> None:
    """However much the server promises to add."""
    with pytest.raises(PolicyRefusal, match=r"no noise.*allow-raw-gradients = false"):
        read(OWN).check(terms(100.0, trust="central"))
    read(OWN | {"allow-raw-gradients": True}).check(terms(100.0, trust="central"))


def test_too_large_a_clip_norm_is_refused_naming_the_limit() -> None:
    policy = SitePolicy(max_clip_norm=0.5)
    policy.check(terms(clip_norm=0.5))
    with pytest.raises(PolicyRefusal, match=r"clip norm = 0\.51, above its max-clip-norm = 0\.5"):
        policy.check(terms(clip_norm=0.51))


@pytest.mark.parametrize(("noise", "raw"), [(0.0, False), (0.0, True), (1.0, True)])
def test_releases_without_noise_are_refused_where_raw_gradients_are_not_allowed(noise: float, raw: bool) -> None:
    policy = SitePolicy(allow_raw_gradients=False)
    policy.check(terms())
    with pytest.raises(PolicyRefusal, match=r"no noise.*allow-raw-gradients = false"):
        policy.check(terms(noise), raw=raw)


def test_a_simulated_client_has_no_limits_by_default() -> None:
    assert read({"partition-id": 0, "num-partitions": 4}) == SitePolicy()


def test_a_site_with_its_own_data_has_strict_limits_by_default() -> None:
    assert read(OWN) == SitePolicy(
        min_noise_multiplier=0.1, max_clip_norm=math.inf, max_releases=1000, allow_raw_gradients=False,
        ledger_path="/spent.jsonl",
    )  # fmt: skip
    read(OWN).check(terms(0.1001))
    with pytest.raises(PolicyRefusal, match=r"min-noise-multiplier = 0\.1"):
        read(OWN).check(terms(0.0999))


def test_raw_gradients_need_the_sites_own_word() -> None:
    assert read(OWN | {"allow-raw-gradients": True}).allow_raw_gradients
    assert not read({"allow-raw-gradients": False}).allow_raw_gradients
    assert not read({"min-noise-multiplier": 0.5}).allow_raw_gradients  # who wants noise wants no raw gradients


def test_limits_are_read_from_the_node_config() -> None:
    policy = read(OWN | {"min-noise-multiplier": 1, "max-clip-norm": 0.25, "max-releases": 7, "max-epsilon": 3})
    assert policy == SitePolicy(1.0, 0.25, 7, 3.0, 1e-5, "/spent.jsonl", allow_raw_gradients=False)
    assert read(OWN | {"max-releases": 0}).max_releases == 0


@pytest.mark.parametrize("value", [math.nan, -1, -0.5, "2", "", "nan", True])
@pytest.mark.parametrize(
    "key", ["min-noise-multiplier", "max-clip-norm", "max-releases", "max-epsilon", "policy-delta"]
)
def test_a_limit_that_is_no_number_is_refused_naming_it(key: str, value: Any) -> None:
    """nan above all: every comparison with it is false, so it would be no limit at all."""
    with pytest.raises(PolicyRefusal, match=f"node config {key} = .*write a number of at least 0"):
        read({key: value})


@pytest.mark.parametrize("value", [0.5, math.inf])
def test_the_most_releases_are_a_whole_number(value: float) -> None:
    """Half a release must not be rounded to 0, which means no limit."""
    with pytest.raises(PolicyRefusal, match=r"node config max-releases = .*whole number"):
        read({"max-releases": value})


@pytest.mark.parametrize("value", [20.1, math.inf])
def test_a_largest_epsilon_beyond_what_is_ever_claimed_is_refused(value: float) -> None:
    assert read({"max-epsilon": 20}).max_epsilon == 20
    with pytest.raises(PolicyRefusal, match=r"node config max-epsilon = .*nothing is claimed above 20.*0 for no limit"):
        read({"max-epsilon": value})


@pytest.mark.parametrize("value", [0, 1, 1.5])
def test_the_delta_of_the_largest_epsilon_is_a_probability(value: float) -> None:
    assert read({"policy-delta": 1e-7}).policy_delta == 1e-7
    with pytest.raises(PolicyRefusal, match=r"node config policy-delta = .*between 0 and 1"):
        read({"policy-delta": value})


@pytest.mark.parametrize("value", ["spent.jsonl", "./spent.jsonl", 3, True])
def test_a_ledger_path_that_depends_on_where_one_stands_is_refused(value: object) -> None:
    with pytest.raises(PolicyRefusal, match=r"node config ledger-path: write an absolute file name"):
        read(OWN | {"ledger-path": value})
    assert read(OWN | {"ledger-path": "/spent.jsonl"}).ledger_path == "/spent.jsonl"


def test_a_site_with_its_own_data_must_name_its_largest_epsilon() -> None:
    with pytest.raises(PolicyRefusal, match=r"no max-epsilon\. Write .*max-epsilon=8\.0.*0 = no limit"):
        read({"data-path": "/own.jsonl"})
    assert read(OWN | {"max-epsilon": 8.0}).max_epsilon == 8.0


@pytest.mark.parametrize("limits", [{}, {"max-releases": 1}, {"max-epsilon": 8.0}])
def test_a_site_with_its_own_data_must_name_a_file_for_what_it_spends(limits: dict[str, Any]) -> None:
    """Flower takes a client's state over when its reply has gone, and gives up after five seconds.

    A server sent an encoder of 295 MB, which stays in that state: a site with ``max-releases`` 1 made four answers of
    its rows and counted none.
    """
    with pytest.raises(PolicyRefusal, match=r"no ledger-path\. Make the file .*python -m client_app\.new_ledger"):
        read({"data-path": "/own.jsonl", "max-epsilon": 0.0} | limits)
    assert read({"max-epsilon": 0.0} | limits).ledger_path == "", "a simulated client holds nobody's data"


def test_a_path_is_never_repeated_in_a_refusal() -> None:
    with pytest.raises(PolicyRefusal) as refusal:
        read(OWN | {"ledger-path": "home/alice/spent.jsonl"})
    assert "alice" not in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("min-noise-multipler", "did you mean min-noise-multiplier?"),
        ("max_releases", "did you mean max-releases?"),
        ("data_path", "did you mean data-path?"),
        ("xyzzy", "the keys are allow-raw-gradients, answer-seconds, append-eos,"),
    ],
)
def test_a_misspelt_limit_is_refused_and_not_passed_over(key: str, meant: str) -> None:
    """A site that wrote one went by the default instead, and one that misspelt data-path by no limits at all."""
    with pytest.raises(PolicyRefusal, match=f"^node config {key}: unknown key; {re.escape(meant)}"):
        read({"max-epsilon": 8.0, key: 5.0})


def test_a_node_without_any_key_of_this_app_may_have_others() -> None:
    assert read({"partition-id": 0, "num-partitions": 3, "dataset-of-another-app": "x"}) == SitePolicy()


def test_the_keys_are_those_of_the_documents() -> None:
    text = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")
    section = text.partition("## What a site can refuse")[2].partition("\n## ")[0]
    heads = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {key for head in heads for key in re.findall("`([a-z-]+)`", head)} == KEYS - {"worker-idle-seconds"}


@pytest.mark.parametrize("name", ["/data/other.csv", "notes.jsonl", "~/x", "../up", "folder/of-mine", "", "."])
def test_a_run_cannot_name_a_file_of_a_node_that_named_none_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It was read, and where it did not fit the format, a cell of it stood in the error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder" / "of-mine").mkdir(parents=True)
    run: dict[str, Any] = {"data.name": name}
    place = Context(run_id=7, node_id=11, node_config={"partition-id": 0}, state=RecordDict(), run_config=run)
    with pytest.raises(PolicyRefusal, match="would be a file of this machine, and its node config has no data-path"):
        resident.answer(instruction(RecordDict()), place)
    check_data_name({"data-path": "/data/site.jsonl"}, name)
    for public in ("demo", "databricks/databricks-dolly-15k"):
        check_data_name({}, public)
