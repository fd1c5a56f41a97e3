"""A site's own limits."""

import pytest

from client_app.policy import PolicyRefusal, SitePolicy
from common.privacy.mechanism import ReleaseTerms, Trust


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
    """z = 2 over 16 shares is 1/2 on one message; in central it is nothing."""
    SitePolicy(min_noise_multiplier=0.499).check(terms(2.0, trust="distributed", shares=16))
    for trust, shares in (("distributed", 17), ("central", 1)):
        with pytest.raises(PolicyRefusal, match=r"min-noise-multiplier = 0\.499"):
            SitePolicy(min_noise_multiplier=0.499).check(terms(2.0, trust=trust, shares=shares))


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


def test_a_site_with_its_own_data_allows_no_raw_gradients_unless_it_says_so() -> None:
    read = SitePolicy.from_node_config
    assert read({"partition-id": 0, "num-partitions": 4}) == SitePolicy()
    assert not read({"data-path": "own.jsonl"}).allow_raw_gradients
    assert read({"data-path": "own.jsonl", "allow-raw-gradients": True}).allow_raw_gradients
    assert not read({"allow-raw-gradients": False}).allow_raw_gradients


def test_limits_are_read_from_the_node_config() -> None:
    policy = SitePolicy.from_node_config({"min-noise-multiplier": 1, "max-clip-norm": "0.25"})
    assert (policy.min_noise_multiplier, policy.max_clip_norm) == (1.0, 0.25)
