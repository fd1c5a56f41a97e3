"""FEDLPP: what is broadcast, what is stepped on, what the report says, resume."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, MetricRecord
from torch import Tensor

from common.model.adapted import AdaptedModel
from common.proxy import QuantizedAdapter, quantize
from common.wire.records import PROXY, TASK, pack_instruction, round_of, serialized_bytes, unpack_instruction
from server_app.strategies.base import FederatedAdapter
from tests.support.false_alarms import rms_outside, statistical
from tests.support.grids import TinyGrid
from tests.support.messages import Reader
from tests.support.strategy_runs import NOISY, Make, rounds_of
from tests.support.tiny import CLIENTS, Files, run_tiny, start, tiny_config

FEDLPP: dict[str, Any] = {"strategy.name": "fedlpp"}
STOCHASTIC: dict[str, Any] = {**FEDLPP, "fedlpp.rounding": "stochastic"}


def history(strategy: FederatedAdapter, grid: TinyGrid) -> tuple[list[Tensor], list[QuantizedAdapter]]:
    """The server's adapter before each round, and what each round sent to its first client."""
    adapters = [strategy.state.optimizer.adapter]
    hooks = strategy.hooks

    def evaluate(_: int, adapter: Tensor) -> None:
        adapters.append(adapter)

    strategy.hooks = type(hooks)(evaluate, hooks.on_prepared, hooks.on_round)
    start(strategy, grid)
    firsts = {round_of(message): message.content for message in reversed(grid.sent)}
    read = Reader()
    proxies: Any = [read(firsts[key]).start for key in sorted(firsts)]
    return adapters, proxies


@pytest.mark.parametrize("changes", [{}, {"fedlpp.bits": 1}, {"fedlpp.bits": 3}])
def test_clients_get_the_quantized_adapter_and_nothing_finer(make: Make, changes: dict[str, Any]) -> None:
    strategy, grid = make({**FEDLPP, **changes})
    adapters, proxies = history(strategy, grid)
    settings = strategy.config.fedlpp
    assert len(proxies) == 3
    for adapter, proxy in zip(adapters, proxies, strict=False):
        expected = quantize(adapter, strategy.layout, settings.bits)
        assert torch.equal(proxy.codes, expected.codes)
        assert torch.equal(proxy.ranges, expected.ranges)
        assert not torch.equal(proxy.dequantize(strategy.layout), adapter)


def test_every_client_of_a_round_gets_the_same_proxy_and_every_round_rounds_anew(make: Make) -> None:
    strategy, grid = make({**STOCHASTIC, "server.learning-rate": 1e-30})
    start(strategy, grid)
    seen: dict[str, set[bytes]] = {}
    for message in grid.sent:
        codes: Any = message.content.config_records[TASK][PROXY]
        seen.setdefault(round_of(message), set()).add(codes)
    assert [len(seen[key]) for key in sorted(seen)] == [1, 1, 1]
    assert len(set.union(*seen.values())) == 3, "the adapter has not moved, its rounding has"


def test_the_step_is_taken_on_full_precision_with_the_proxys_gradient(make: Make, adapted: AdaptedModel) -> None:
    """Clients release what they would if the proxy were the adapter; the server adds that to its own."""
    changes = {"num-server-rounds": 1, "server.learning-rate": 0.5}
    strategy, grid = make({**FEDLPP, **changes})
    before = strategy.state.optimizer.adapter
    proxy = quantize(before, strategy.layout, 2).dequantize(strategy.layout)
    plain, plain_grid = make({"strategy.name": "lora", **changes})
    plain.state.optimizer.reset(proxy)
    expected = start(plain, plain_grid) - proxy
    assert expected.norm() > 0.1
    torch.testing.assert_close(start(strategy, grid) - before, expected, rtol=1e-4, atol=1e-6)
    full, full_grid = make({"strategy.name": "lora", **changes})
    assert (start(full, full_grid) - before - expected).norm() > 0.1 * expected.norm()


def test_several_local_steps_start_at_the_proxy(make: Make) -> None:
    changes = {"num-server-rounds": 1, "train.local-steps": 3, "privacy.clipping": "clip", "privacy.clip-norm": 1e3}
    strategy, grid = make({**FEDLPP, **changes})
    before = strategy.state.optimizer.adapter
    plain, plain_grid = make({"strategy.name": "lora", **changes})
    plain.state.optimizer.reset(quantize(before, strategy.layout, 2).dequantize(strategy.layout))
    proxy = plain.state.optimizer.adapter
    torch.testing.assert_close(start(strategy, grid) - before, start(plain, plain_grid) - proxy, rtol=1e-3, atol=1e-5)


def test_it_learns(files: Files, tmp_path: Path) -> None:
    changes = {**FEDLPP, "num-server-rounds": 8, "server.learning-rate": 1.0, "fedlpp.bits": 3}
    folder = run_tiny(tiny_config(files, tmp_path, changes))
    outcome = json.loads((folder.path / "report.json").read_text())["outcome"]
    assert outcome["final"]["loss"] < 0.9 * outcome["base"]["loss"]


@statistical(rms_outside(0.94, 1.06, 3072), "system")
def test_it_costs_no_privacy_and_the_noise_is_that_of_plain_lora(make: Make) -> None:
    """The proxy is a function of released adapters: same charges, same epsilon; 3,072 values."""
    epsilons = []
    for name in ("fedlpp", "lora"):
        strategy, grid = make({**NOISY, "strategy.name": name, "privacy.trust": "distributed"})
        start(strategy, grid)
        epsilons.append(strategy.account.certify())
    assert epsilons[0] == pytest.approx(epsilons[1], rel=1e-9)
    adapters = []
    for noise in ({}, {**NOISY, "privacy.trust": "distributed"}):
        strategy, grid = make({**FEDLPP, **noise, "num-server-rounds": 1, "server.learning-rate": 1.0})
        adapters.append(start(strategy, grid).double())
    assert 0.94 < ((adapters[1] - adapters[0]) * CLIENTS).square().mean().sqrt() / 2.0 < 1.06


@pytest.mark.parametrize("changes", [{}, {"codec.form": "trained"}, {"codec.kind": "conv"}])
def test_updates_are_whole_whatever_the_codec_section_says(make: Make, changes: dict[str, Any]) -> None:
    strategy, grid = make({**FEDLPP, **changes})
    start(strategy, grid)
    assert strategy.codec.size == 3072
    replies: Any = [message.content.config_records["release"]["code"] for message in grid.answered]
    assert {len(values) for values in replies} == {4 * 3072}


def test_the_report_scores_the_saved_adapter_and_its_proxy_and_their_gap(make: Make) -> None:
    def evaluate(_: int, adapter: Tensor) -> MetricRecord:
        return MetricRecord({"loss": float(len(adapter.unique())), "accuracy": 0.25, "retention": 0.5})

    strategy, grid = make(FEDLPP, evaluate)
    after = start(strategy, grid)
    found: Any = strategy.measure().details()
    proxy = quantize(after, strategy.layout, 2).dequantize(strategy.layout)
    assert found["global"] == {"loss": len(after.unique()), "accuracy": 0.25}
    assert found["proxy"] == {"loss": len(proxy.unique()), "accuracy": 0.25}
    assert found["gap"] == {"loss": len(after.unique()) - len(proxy.unique()), "accuracy": 0.0}
    assert found["figures"] == {
        "accuracy of the proxy": 0.25,
        "loss of the proxy": len(proxy.unique()),
        "accuracy, adapter minus proxy": 0.0,
        "loss, adapter minus proxy": len(after.unique()) - len(proxy.unique()),
    }
    assert found["proxy_bytes"] == 3072 // 4 + 8 * len(strategy.layout.tensors)


def test_both_adapters_are_scored_once_and_telling_of_it_scores_nothing(make: Make) -> None:
    scored: list[Tensor] = []

    def evaluate(_: int, adapter: Tensor) -> MetricRecord:
        scored.append(adapter)
        return MetricRecord({"loss": 1.0})

    strategy, grid = make(FEDLPP, evaluate)
    after = start(strategy, grid)
    scored.clear()
    findings = strategy.measure()
    assert len(scored) == 2
    assert torch.equal(scored[0], after)
    assert torch.equal(scored[1], quantize(after, strategy.layout, 2).dequantize(strategy.layout))
    assert findings.details() == findings.details()
    assert len(scored) == 2


@pytest.fixture(scope="module")
def noisy(files: Files, tmp_path_factory: pytest.TempPathFactory, seeded: None) -> Any:
    changes = {**STOCHASTIC, **NOISY, "privacy.sampling-rate": 0.7, "num-server-rounds": 4}
    config = tiny_config(files, tmp_path_factory.mktemp("whole"), changes)
    return config, run_tiny(config)


def test_the_page_and_the_terminal_tell_the_gap(noisy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = noisy
    report = json.loads((folder.path / "report.json").read_text())
    named = report["strategy"]
    assert named["global"]["loss"] == report["outcome"]["final"]["loss"]
    assert named["proxy"]["loss"] != named["global"]["loss"]
    assert named["gap"]["accuracy"] == named["global"]["accuracy"] - named["proxy"]["accuracy"]
    line = named["summary"]
    assert f"{named['proxy']['accuracy']:.1%} (proxy)" in line
    assert f"{named['global']['loss']:.3f} (kept here)" in line
    assert line in (folder.path / "report.md").read_text()
    from server_app.results.console import ConsoleLog  # noqa: PLC0415

    ConsoleLog().closing(report)
    assert line in capsys.readouterr().out


def test_without_public_examples_the_report_has_bytes_only(make: Make) -> None:
    strategy, grid = make(FEDLPP)
    start(strategy, grid)
    assert set(strategy.measure().details()) == {"proxy_bytes", "proxy_times_smaller"}


def test_the_rounds_bytes_are_those_of_the_packed_proxy(make: Make) -> None:
    strategy, grid = make(FEDLPP)
    start(strategy, grid)
    sizes = [serialized_bytes(message.content) for message in grid.sent]
    assert [r.bytes_down for r in rounds_of(strategy)] == [CLIENTS * sizes[0], CLIENTS * sizes[-1], CLIENTS * sizes[-1]]
    assert sizes[-1] < sizes[0], "what does not change is sent once"
    content = grid.sent[0].content
    _, spec, task = unpack_instruction(content)
    plain = serialized_bytes(pack_instruction(torch.zeros(strategy.layout.size), spec, task))
    assert plain - max(sizes) > 0.9 * 3072 * (4 - 1 / 4)


@pytest.mark.parametrize("change", [{"size": 3071}, {"rest": bytes(8)}, {"bits": 3}, {"rest": b""}])
def test_a_client_refuses_a_proxy_that_is_not_of_its_adapter(make: Make, change: dict[str, Any]) -> None:
    """Before its site is charged, saying why."""
    strategy, grid = make({**FEDLPP, **NOISY})
    strategy.state.codec = strategy.prepare(grid)
    from server_app.rounds.state import pack_adapter  # noqa: PLC0415

    (message, *_) = strategy.configure_train(1, pack_adapter(strategy.state.optimizer.adapter), ConfigRecord(), grid)
    held: Any = message.content[TASK]
    bits, size = struct.unpack_from("<BQ", held[PROXY])
    parts = {"bits": bits, "size": size, "rest": held[PROXY][9:], **change}
    other = struct.pack("<BQ", parts["bits"], parts["size"]) + parts["rest"]
    message.content[TASK] = ConfigRecord({**held, PROXY: other})
    reply = grid.answer(message)
    assert reply is not None
    assert reply.error.reason.startswith("WireError: quantized adapter")
    assert set(grid.context(message.metadata.dst_node_id).state) == {"run"}, "nothing is charged, and no part is kept"


def test_an_adapter_that_is_not_finite_ends_in_divergence_not_in_an_error(make: Make) -> None:
    strategy, grid = make({**FEDLPP, "server.learning-rate": 3e38, "privacy.clip-norm": 1e4})
    before = strategy.state.optimizer.adapter
    assert torch.equal(start(strategy, grid), before)
    assert "diverged" in strategy.stop_reason
    assert math.isfinite(float(strategy.measure().details()["proxy_times_smaller"]))  # type: ignore[arg-type]
