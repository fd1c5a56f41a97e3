"""The GPU benchmark runs anywhere at a small size; its figures mean something on a card only."""

import re

import pytest
import torch

from benchmarks import gpu
from common.config import LoraConfig
from common.demo.model import load_tokenizer
from common.model.adapted import assemble

OPTIONS = ["--small", "--device", "cpu", "--batch", "2", "--length", "16", "--codes", "16", "64", "--repeats", "2"]


def test_the_table_has_every_measurement_of_both_formats() -> None:
    table = gpu.main([*OPTIONS, "--copy-factor", "1"])
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["bfloat16"] * 9 + ["4-bit"] * 9
    work = [row[1].strip() for row in rows[:9]]
    assert work[:2] == ["local step, 2 x 16 tokens", "draw + encode, k = 16"]
    assert work[-1] == "decode, k = 64"
    assert all(float(row[2].split()[0]) > 0 for row in rows)
    share = next(row[4] for row in rows if "noise, k = 64" in row[1])
    step, private = float(rows[0][2].split()[0]), next(float(r[2].split()[0]) for r in rows if "noise, k = 64" in r[1])
    printed = re.search(r"([\d.]+)% of the local step", share)
    assert printed is not None
    assert float(printed.group(1)) == pytest.approx(100 * private / step, rel=0.02)


def test_the_plain_small_command_runs_and_prints_what_it_returns(capsys: pytest.CaptureFixture[str]) -> None:
    """The documented ``--small``: its default sizes of a code go beyond the small adapter's 16,384 values."""
    table = gpu.main(["--small", "--length", "16", "--repeats", "1", "--copy-factor", "1", "--quantization", "none"])
    assert capsys.readouterr().out == f"{table}\n"
    work = [line.split("|")[2].strip() for line in table.splitlines()[2:]]
    assert [what for what in work if what.startswith("decode")] == ["decode, k = 256", "decode, k = 4,096"]


def test_a_row_is_printed_before_the_next_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu.LinearCodec, "of_form", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        gpu.main([*OPTIONS, "--copy-factor", "1"])
    assert "local step, 2 x 16 tokens" in capsys.readouterr().out


def test_the_random_4_bit_model_is_quantized_and_trains() -> None:
    base = gpu.random_base(gpu.SMALL, "4", torch.device("cpu"))
    assert base.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    assert base.lm_head.weight.dtype == torch.float32
    adapted = assemble(base, load_tokenizer(), LoraConfig(), 1, torch.device("cpu"))
    assert gpu.local_step(adapted, 2, 16)().norm() > 0
