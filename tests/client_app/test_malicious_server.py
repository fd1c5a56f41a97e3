"""A server that asks for more than it should, through the real handlers of a site with its own data."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict

from client_app import app as client_module
from client_app.site_ledger import SiteLedger
from common.adapter import Layout
from common.codecs import DENSE, IdentityCodec, LinearCodec
from common.codecs.base import Codec, EncoderSpec, layout_fields
from common.config import RunConfig, StageOneConfig
from common.model.adapted import AdaptedModel
from common.privacy import noise
from common.privacy.accounting import epsilon
from common.privacy.gaussian import gaussian_epsilon
from common.privacy.mechanism import ReleaseTerms
from common.privacy.price import message_charge, noise_slack
from common.scale_code import ScaleCode
from common.wire.assignment import Task
from common.wire.digest import app_digest
from common.wire.records import STATISTICS, TRAIN, pack_instruction, unpack_release
from tests.support.false_alarms import rms_outside, statistical
from tests.support.messages import rewritten
from tests.support.tiny import Files, ledger_in, run_tiny, spent_in, tiny_config, tiny_grid, write_jsonl

SITE = 3
PRIVATE = "alice leukaemia seventeen"
DELTA = 1e-5


@pytest.fixture(scope="module")
def config(files: Files) -> RunConfig:
    return tiny_config(files, Path())


class Server:
    """Asks one site with its own data whatever it likes."""

    def __init__(self, config: RunConfig, adapted: AdaptedModel, data: Path) -> None:
        self.adapted, self.data, self.grid = adapted, data, tiny_grid(config)
        self.file = ledger_in(data.parent)
        self.context.node_config |= {"data-path": str(data), "max-epsilon": 0.0, "ledger-path": self.file}

    @property
    def context(self) -> Any:
        return self.grid.context(SITE)

    @property
    def ledger(self) -> SiteLedger:
        return spent_in(self.file)

    def limit(self, **limits: Any) -> None:
        self.context.node_config.update({name.replace("_", "-"): value for name, value in limits.items()})

    def content(self, codec: Codec | None = None, *, task: dict[str, Any] | None = None, **asked: Any) -> RecordDict:
        codec = codec or LinearCodec.of_form(self.adapted.layout, 64, 1)
        agreed = {"clip_norm": 1.0, "noise_multiplier": 1.0, "trust": "local", "shares": 4, "normalize": True, **asked}
        terms = ReleaseTerms(**{"size": codec.size, **agreed})
        header = {"round": 1, "terms": terms, "code_digest": app_digest(), "steps": 2, "learning_rate": 0.5}
        header |= task or {}
        return pack_instruction(self.adapted.initial, codec.spec(), Task(**header))

    def send(self, content: RecordDict, kind: str = TRAIN) -> Message:
        asked = Message(content=content, dst_node_id=SITE, message_type=kind, ttl=60.0)
        return self.grid.send_and_receive([asked])[0]

    def refusal(self, content: RecordDict, kind: str = TRAIN) -> str:
        """The text of an error reply, which says nothing of the site's data; ``""`` for a release."""
        reply = self.send(content, kind)
        said = reply.error.reason if reply.has_error() else ""
        assert not reply.has_error() or not reply.has_content()
        assert not any(word in said for word in (*PRIVATE.split(), str(self.data), self.data.name))
        return said


@pytest.fixture
def server(config: RunConfig, adapted: AdaptedModel, tmp_path: Path) -> Server:
    rows = [{"prompt": PRIVATE, "completion": " sleeps"}]
    return Server(config, adapted, write_jsonl(tmp_path / "ward.jsonl", rows))


LIMIT_REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("no noise", {"noise_multiplier": 0.0}, "no noise of its own, and its policy says allow-raw-gradients = false"),
    ("noise of the server's", {"trust": "central", "noise_multiplier": 100.0}, "allow-raw-gradients = false"),
    ("noise just too small", {"noise_multiplier": 0.0999}, "= 0.0999, below its min-noise-multiplier = 0.1"),
    (
        "a share just too small",
        {"trust": "distributed", "noise_multiplier": 0.1999, "shares": 4},
        "below its min-noise-multiplier = 0.1",
    ),
    (
        "a tiny share of noise",
        {"trust": "distributed", "noise_multiplier": 10.0, "shares": 2**20},
        "= 0.00895, below its min-noise-multiplier = 0.1",
    ),
    ("a huge clip norm", {"clip_norm": 1e9}, "clip norm = 1e+09, above its max-clip-norm = 1.0"),
    ("a huge size", {"size": 2**40}, "size = 1099511627776, above its adapter's size = 3072"),
    ("one value too many", {"size": 3073}, "size = 3073, above its adapter's size = 3072"),
]


@pytest.mark.parametrize(("asked", "limit"), [case[1:] for case in LIMIT_REFUSED], ids=[c[0] for c in LIMIT_REFUSED])
@pytest.mark.parametrize("kind", [TRAIN, STATISTICS])
def test_terms_beyond_a_limit_are_refused_naming_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], limit: str, kind: str
) -> None:
    """Before the site's data are looked at for the answer, and before anything is charged."""
    for step in ("local_update", "gradient_stream"):
        monkeypatch.setattr(client_module, step, lambda *_: pytest.fail("a refused instruction was worked on"))
    server.limit(max_clip_norm=1.0)
    said = server.refusal(server.content(**asked), kind)
    assert said.startswith("PolicyRefusal: this site refuses: ")
    assert limit in said
    assert server.ledger == SiteLedger()


def test_just_within_every_limit_it_answers(server: Server) -> None:
    """So the refusals above are the limits' doing."""
    server.limit(max_clip_norm=1.0)
    assert server.refusal(server.content(noise_multiplier=0.1001)) == ""
    assert server.refusal(server.content(trust="distributed", noise_multiplier=0.2001, shares=4)) == ""


RANGES: list[tuple[str, Any, str]] = [
    ("noise_multiplier", 1e-9, "noise multiplier must be 0 or lie in 1e-4..1e6"),
    ("noise_multiplier", -1.0, "noise multiplier must be finite and not negative"),
    ("noise_multiplier", math.nan, "noise multiplier must be finite and not negative"),
    ("clip_norm", math.inf, "clip norm must lie in"),
    ("clip_norm", math.nan, "clip norm must lie in"),
    ("shares", 2**21, "shares must lie in 0..1048576"),
    ("size", 2**60, "needs more than 32 bits"),
    ("size", 0, "size must be at least 1"),
    ("trust", "blind", "trust must be central, distributed, local or secure"),
]


@pytest.mark.parametrize(("field", "value", "limit"), RANGES, ids=[f"{name}={value}" for name, value, _ in RANGES])
def test_terms_that_no_honest_server_can_make_are_refused_naming_the_range(
    server: Server, field: str, value: Any, limit: str
) -> None:
    """Written past the server's own checks, straight into the message."""
    said = server.refusal(rewritten(server.content(), lambda header: header["terms"].update({field: value})))
    assert said.startswith("WireError: instruction is malformed")
    assert limit in said


def test_gradients_and_statistics_in_the_clear_are_refused(server: Server) -> None:
    raw = server.content(task={"raw": True}, noise_multiplier=100.0)
    assert server.refusal(raw, TRAIN).startswith("WireError: a gradient is never asked for in the clear")
    assert "allow-raw-gradients = false" in server.refusal(raw, STATISTICS)


def test_gradients_in_the_clear_exceed_every_largest_epsilon(server: Server) -> None:
    """Even where the site allows them: the two settings contradict each other, and the stricter one holds."""
    server.limit(allow_raw_gradients=True, max_epsilon=20, min_noise_multiplier=0)
    for asked in ({"noise_multiplier": 0.0}, {"trust": "central"}):
        assert "alone would cost epsilon = inf, above its max-epsilon = 20" in server.refusal(server.content(**asked))
    raw = server.content(task={"raw": True}, size=2 * len(server.adapted.layout.tensors))
    assert "alone would cost epsilon = inf, above its max-epsilon = 20" in server.refusal(raw, STATISTICS)
    assert server.ledger == SiteLedger()


def test_other_code_is_refused(server: Server) -> None:
    said = server.refusal(server.content(task={"code_digest": "feedbeef"}))
    assert said.startswith("CodeMismatch: the server runs app code feedbeef")
    assert server.ledger == SiteLedger()


def test_an_encoder_of_another_adapter_gives_nothing_away(server: Server) -> None:
    layout = Layout.of({"a": (server.adapted.layout.size,)})
    said = server.refusal(server.content(LinearCodec.of_form(layout, 64, 1)))
    assert said.startswith("WireError: encoder: codec 'linear' is for the adapter layout")


class Amplifier(Codec):
    """A dense encoder whose every singular value is ``gain``: sends weights of the server's choice."""

    def __init__(self, layout: Layout, size: int, gain: float) -> None:
        self._layout, self._size = layout, size
        generator = torch.Generator().manual_seed(1)
        rows = torch.linalg.qr(torch.randn(layout.size, size, generator=generator))[0].T
        self._weights = {"encoder.weight": rows * gain, "encoder.bias": torch.zeros(size)}

    dim = property(lambda self: self._layout.size)
    size = property(lambda self: self._size)

    def spec(self) -> EncoderSpec:
        fields = {**layout_fields(self._layout), "size": self._size, "scale": 1.0, "code-scale": 1.0}
        return EncoderSpec(DENSE.kind, DENSE.version, fields, self._weights)

    encode = decode = state = None  # type: ignore[assignment] - only its specification travels


class Tap:
    """Notes the noise that a site adds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn: list[np.ndarray] = []
        original = noise.discrete_gaussian

        def draw(*arguments: Any) -> np.ndarray:
            self.drawn.append(original(*arguments))
            return self.drawn[-1]

        monkeypatch.setattr(noise, "discrete_gaussian", draw)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("gain", [1e-6, 1.0, 1e6, 1e30, 1e38, math.inf, math.nan])
@statistical(rms_outside(0.6, 1.5, 64), "system")
def test_no_encoder_lets_one_client_weigh_more_than_the_clip_norm(
    server: Server, monkeypatch: pytest.MonkeyPatch, gain: float, normalize: bool
) -> None:
    """What is released less its noise has a norm of at most C, in exact integers; the noise is the promised one."""
    server.limit(max_clip_norm=0.5)
    tap = Tap(monkeypatch)
    content = server.content(
        Amplifier(server.adapted.layout, 64, gain), clip_norm=0.5, normalize=normalize, noise_multiplier=2.0
    )
    terms = ReleaseTerms(64, 0.5, 2.0, "local", 4, normalize)
    values = unpack_release(server.send(content).content, 1, terms).astype(np.int64)
    added, _ = tap.drawn  # the second is of what would leave if the ledger were full
    bare = values - added
    assert int(bare @ bare) <= terms.resolution**2
    assert np.linalg.norm(bare * terms.grid_step) <= 0.5
    assert 0.6 < np.sqrt(np.mean(np.square(added * terms.grid_step))) / (2.0 * 0.5) < 1.5
    if gain in {1.0, 1e6, 1e30}:
        assert np.linalg.norm(bare * terms.grid_step) > 0.2, "the site's own gradient is what was clipped"
    if not math.isfinite(gain):
        assert not bare.any()


def test_a_question_that_is_asked_again_is_charged_again(server: Server) -> None:
    """Averaging many answers to one round's question would remove the noise; each one costs."""
    limit = gaussian_epsilon(math.sqrt(3) / 4, DELTA) * 1.001
    server.limit(max_epsilon=limit)
    content = server.content(noise_multiplier=4.0)
    assert [server.refusal(content) for _ in range(5)] == [""] * 5, "that its ledger is full, a site does not say"
    assert server.ledger.releases == 3
    assert server.ledger.epsilon(DELTA) <= limit


def test_both_stages_are_charged_with_the_noise_of_each_message(server: Server) -> None:
    server.limit(max_epsilon=20)
    code = ScaleCode.of(server.adapted.layout, StageOneConfig())
    size, bound = code.size, code.bound
    first = server.content(IdentityCodec(server.adapted.layout), size=size, clip_norm=bound, noise_multiplier=3.0)
    assert server.refusal(first, STATISTICS) == ""
    assert server.refusal(server.content(trust="distributed", noise_multiplier=8.0, shares=4)) == ""
    asked = [
        ReleaseTerms(size, bound, 3.0, "local", 4, normalize=True),
        ReleaseTerms(64, 1.0, 8.0, "distributed", 4, normalize=True),
    ]
    usable = DELTA - sum(map(noise_slack, asked))
    assert server.ledger.epsilon(DELTA) == pytest.approx(epsilon([message_charge(one) for one in asked], usable))


def test_the_charge_is_on_disk_before_the_release_is_made_and_stays_when_it_fails(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The charge is never taken back."""
    server.limit(max_epsilon=20)
    seen: list[int] = []
    original = client_module.release_gradient

    def release(*arguments: Any) -> np.ndarray:
        seen.append(server.ledger.releases)
        return original(*arguments)

    monkeypatch.setattr(client_module, "release_gradient", release)
    assert server.refusal(server.content()) == ""
    assert seen == [1]
    monkeypatch.setattr(client_module, "local_update", lambda *_: 1 / 0)
    assert server.refusal(server.content()) == "", "a failure is answered with noise, and paid for"
    assert server.ledger.releases == 2


@pytest.mark.parametrize("record", [{"schema": 1}, {"schema": 1, "releases": 0, "squared-mu": 0.0, "slack": 0.0}])
def test_a_broken_ledger_is_a_refusal(server: Server, record: dict[str, Any]) -> None:
    server.limit(max_epsilon=20)
    broken = json.dumps(record, separators=(",", ":")) + "\n"
    Path(server.file).write_text(broken, encoding="utf-8")
    for _ in range(2):
        assert "so what it has spent is unknown" in server.refusal(server.content())
    assert Path(server.file).read_text(encoding="utf-8") == broken


def test_a_state_that_flower_loses_takes_no_charge_with_it(server: Server) -> None:
    """It is handed over behind the reply, for five seconds: a server that makes it large has it lost each time."""
    server.limit(max_releases=2)
    for _ in range(4):
        assert server.refusal(server.content()) == ""
        server.context.state.clear()
    assert server.ledger.releases == 2, "the other two answers are of nothing but noise"


def test_a_run_goes_on_without_the_sites_whose_budget_is_spent(files: Files, tmp_path: Path) -> None:
    """Two of six sites afford one round; the others carry on, and the metrics name the limit."""
    changes = {
        "strategy.name": "lora",
        "privacy.epsilon": 0.0,
        "privacy.noise-multiplier": 4.0,
        "privacy.trust": "local",
        "server.divergence-factor": 1e9,  # the noise raises the loss to about three times the base model's
    }
    config = tiny_config(files, tmp_path, changes)
    grid = tiny_grid(config)
    once, twice = (gaussian_epsilon(math.sqrt(rounds) / 4, DELTA) for rounds in (1, 2))
    for node in (2, 5):
        grid.context(node).node_config["max-epsilon"] = (once + twice) / 2
    folder = run_tiny(config, grid)
    rows = folder.read_metrics()[1:]
    assert [(row["round"], row["cohort"], row["replies"], row["failures"]) for row in rows] == [
        (1, 6, 6, 0),
        (2, 6, 4, 2),
        (3, 6, 4, 2),
    ]
    assert [row["shortage"] for row in rows] == ["", "", ""]
    for row in rows[1:]:
        said = (
            f"LimitReached: this site refuses: this message would go beyond its max-epsilon = {(once + twice) / 2:.6g}"
        )
        assert row["failure"].startswith(said)
        assert row["failure"].endswith("(2 of 2 failures)")
    assert json.loads((folder.path / "report.json").read_text())["outcome"]["stopped_because"] == "all rounds done"
