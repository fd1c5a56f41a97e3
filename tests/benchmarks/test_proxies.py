from typing import Any

import pytest

from benchmarks import proxies
from common.config import Scalar


def test_the_step_is_chosen_on_validation_facts_by_the_servers_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Scalar, Scalar]] = []

    def run_report(keys: dict[str, Scalar]) -> dict[str, Any]:
        seen.append((keys["data.split"], keys["seed"]))
        step = keys["server.learning-rate"]
        assert isinstance(step, float)
        return {"outcome": {"final": {"accuracy": {0.1: 0.5, 0.3: 0.9, 1.0: 0.9}[step], "loss": step}}}

    monkeypatch.setattr(proxies, "run_report", run_report)
    assert proxies.best_step({"data.split": "evaluation"}, [0.1, 0.3, 1.0], 2) == 0.3
    assert seen == [("validation", 1001), ("validation", 1002)] * 3


def test_a_run_scores_the_adapter_and_its_quantised_proxy() -> None:
    small: dict[str, Scalar] = {
        "num-server-rounds": 1,
        "federation.num-clients": 2,
        "lora.rank": 2,
        "lora.target-modules": "q_proj",
        "strategy.name": "fedlpp",
        "fedlpp.bits": 1,
        "privacy.epsilon": float("inf"),
        "privacy.sampling-rate": 1.0,
        "data.task": "knowledge",
    }
    found = proxies.run(small, 1, 0, 1)
    assert found["gap"] == pytest.approx(found["server"] - found["proxy"])
    assert found["gap, loss"] == pytest.approx(found["proxy, loss"] - found["server, loss"])
    assert found["gap, loss"] != 0
    whole = proxies.run({**small, "strategy.name": "lora"}, 1, 0, 1)
    assert (whole["gap"], whole["gap, loss"]) == (0, 0)
