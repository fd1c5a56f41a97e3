"""Controls: what does not come from the clients must not look like a result, and a worse model must be called one."""

import json
from pathlib import Path

import pytest
import torch

from common.model.adapted import AdaptedModel
from server_app.results.report import _warning
from server_app.rounds.controls import CONTROLS, Control, controlled_code, controlled_gradient
from tests.support.tiny import Files, final_adapter, run_tiny, tiny_config

CONV = {"strategy.name": "dr-encoder", "codec.kind": "conv", "codec.size": 0}


def test_each_control_takes_away_what_it_says() -> None:
    code = torch.tensor([1.0, -2.0, torch.nan])
    assert torch.equal(controlled_code("codes-zeroed", code), torch.zeros(3))
    assert torch.equal(controlled_gradient("no-update", code), torch.zeros(3))
    for control in ("none", "no-update"):
        assert controlled_code(control, code) is code
    for control in ("none", "codes-zeroed"):
        assert controlled_gradient(control, code) is code


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("name", ["random-projection", "conv"])
def test_what_a_decoder_does_by_itself_is_seen_with_codes_zeroed(
    files: Files, adapted: AdaptedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, control: Control
) -> None:
    """A linear decoder does nothing; a convolution has biases, so it moves the model without any client."""
    changes = {"strategy.name": name} if name != "conv" else CONV
    folder = run_tiny(tiny_config(files, tmp_path, {**changes, "num-server-rounds": 1}), control=control)
    moved = not torch.equal(final_adapter(folder), adapted.initial)
    assert moved == (control == "none" or (control == "codes-zeroed" and name == "conv"))
    report = json.loads((folder.path / "report.json").read_text())
    assert report["run"]["control"] == control
    page, said = (folder.path / "report.md").read_text(), capfd.readouterr().out
    assert ("CONTROL RUN, not a result" in page) == ("CONTROL RUN, not a result" in said) == (control != "none")


@pytest.mark.parametrize(("final", "said"), [(0.30, ""), (0.281, ""), (0.279, "ended 2.1 points BELOW the base model")])
def test_a_model_that_ends_more_than_two_points_below_the_base_is_called_so(final: float, said: str) -> None:
    found = _warning({"accuracy": 0.3}, {"accuracy": final}, noisy=True)
    assert found.startswith(said) if said else found == ""


@pytest.mark.parametrize(("final", "said"), [(0.9, ""), (1.0004, ""), (1.01, "ended with loss 1.010, ABOVE")])
def test_without_choices_the_loss_tells_that_a_model_ended_below_the_base(final: float, said: str) -> None:
    found = _warning({"loss": 1.0}, {"loss": final}, noisy=True)
    assert found.startswith(said) if said else found == ""


def test_a_loss_above_the_base_is_told_though_the_accuracy_rose() -> None:
    """A model that picks better and is surer of what it gets wrong: no success without a word."""
    base = {"accuracy": 0.3, "loss": 1.0}
    assert "ABOVE the base model's 1.000, though accuracy rose by 20.0 points" in _warning(
        base, {"accuracy": 0.5, "loss": 8.2}, noisy=True
    )
    assert "do not use this adapter" in _warning(base, {"accuracy": 0.29, "loss": 1.1}, noisy=True)
    assert _warning(base, {"accuracy": 0.29, "loss": 0.9}, noisy=True) == ""


def test_without_noise_no_larger_epsilon_is_advised() -> None:
    base, final = {"accuracy": 0.3}, {"accuracy": 0.2}
    assert "(smaller steps, larger epsilon)" in _warning(base, final, noisy=True)
    assert "(smaller steps)" in _warning(base, final, noisy=False)


def test_without_held_out_data_there_is_nothing_to_warn_of() -> None:
    assert _warning({}, {}, noisy=True) == ""
