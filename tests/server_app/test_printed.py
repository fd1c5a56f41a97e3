"""A run of the paper's printed mechanism, and what its report says."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from common.config import ConfigError
from common.model.adapted import AdaptedModel
from tests.support.tiny import CLIENTS, Files, checked, planned, run_tiny, tiny_config

PRINTED: dict[str, Any] = {
    "privacy.mechanism": "printed",
    "privacy.trust": "local",
    "privacy.clipping": "clip",
    "privacy.epsilon": 2.0,
    "codec.form": "per-tensor",
    "stage-one.private": False,
    "num-server-rounds": 2,
}


@pytest.fixture(scope="module")
def report(files: Files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = run_tiny(tiny_config(files, tmp_path_factory.mktemp("printed"), PRINTED))
    found: dict[str, Any] = json.loads((folder.path / "report.json").read_text())
    found["markdown"] = (folder.path / "report.md").read_text()
    return found


def test_the_report_shows_the_claim_beside_what_is_given(report: dict[str, Any]) -> None:
    printed = report["privacy"]["printed"]
    assert printed["claimed_epsilon"] == pytest.approx(2.0, rel=1e-6)
    assert 5 * printed["claimed_epsilon"] < printed["stage_2"]["mean_only"] < printed["stage_2"]["single_messages"]
    assert "would claim epsilon = 2.000" in report["markdown"]
    assert "End to end it gives none (inf)" in report["markdown"]


def test_no_epsilon_is_claimed_end_to_end(report: dict[str, Any]) -> None:
    privacy = report["privacy"]
    assert float(privacy["released_model"]["epsilon"]) == math.inf
    assert "stage-one.private = false" in privacy["not_private_because"]


def test_the_plan_charges_what_the_noise_amounts_to(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    config = tiny_config(files, tmp_path, PRINTED | {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 3.0})
    plan = planned(config, adapted, CLIENTS)
    tensors = len(adapted.layout.tensors)
    assert plan.round.noise_multiplier == pytest.approx(2 * 3.0 / (CLIENTS * math.sqrt(tensors)))
    assert plan.round.sampling_rate == 1.0


def test_a_calibrated_run_says_nothing_of_it(files: Files, tmp_path: Path) -> None:
    folder = run_tiny(tiny_config(files, tmp_path, {"num-server-rounds": 1}))
    assert json.loads((folder.path / "report.json").read_text())["privacy"]["printed"] == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privacy.trust": "distributed"}, 'privacy.trust = "distributed"'),
        ({"privacy.clipping": "normalize"}, 'privacy.clipping = "normalize"'),
        ({"stage-one.private": True}, "stage-one.private = true"),
        ({"codec.form": "global"}, 'codec.form = "global"'),
        ({"privacy.epsilon": math.inf}, "finite privacy.epsilon"),
    ],
)
def test_what_contradicts_the_printed_mechanism_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.mechanism = .printed.") as refusal:
        checked(PRINTED | changes)
    assert said in str(refusal.value)
