"""``dr-encoder export``: a merged model is the tuned one, an adapter is what was published, and both go to a hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from typer.testing import CliRunner

from tests.support.benchmark_files import save_model, save_run
from tests.support.fake_hub import FakeHub, fake_hub
from tests.support.full_disk import full_disk
from workbench.cli import main as cli
from workbench.evaluation.adapter import load_adapter
from workbench.using import exporting
from workbench.using.request import asked

runner = CliRunner()


def export(adapter: Path, *options: str) -> tuple[int, str]:
    result = runner.invoke(cli.app, ["export", "--adapter", str(adapter), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.suffix in {".json", ".md", ".jinja"})


def merged_as_tuned(adapter: Path, merged: Path) -> PreTrainedTokenizerBase:
    """Hold the logits of a merged model against those of the adapter on its base; the merged model's tokenizer."""
    code, output = export(adapter, "--out", str(merged))
    assert code == 0, output
    assert "model.safetensors" in output
    adapted, tuned = load_adapter(adapter, asked(adapter, {}).config)
    adapted.load(tuned)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    ids = tokenizer("Answer: A B", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected, found = adapted.model(ids).logits, model(ids).logits
        adapted.load(adapted.initial)
        untuned = adapted.model(ids).logits
    assert torch.allclose(expected, found, atol=1e-4)
    assert not torch.allclose(untuned, found, atol=1e-2)
    return tokenizer


def test_a_merged_model_says_what_the_tuned_one_says(adapter: Path, model: str, tmp_path: Path) -> None:
    tokenizer = merged_as_tuned(adapter, tmp_path / "merged")
    assert tokenizer.chat_template
    assert model.encode() not in everything(tmp_path / "merged"), "no path of this machine"


@pytest.mark.parametrize("targets", ["lm_head", "embed_tokens", "q_proj", "q_proj,lm_head,embed_tokens"])
def test_what_is_merged_into_one_of_two_tied_layers_stays_out_of_the_other(targets: str, tmp_path: Path) -> None:
    """The output layer's weight is the embeddings' in most small models: both had what one of them had learned."""
    model = save_model(tmp_path / "model", tied=True)
    merged_as_tuned(save_run(tmp_path / "results" / "run", model, targets), tmp_path / "merged")
    said = json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))
    assert said["tie_word_embeddings"] == (targets == "q_proj")


def test_weights_come_in_the_dtype_that_is_asked_for(adapter: Path, tmp_path: Path) -> None:
    code, _ = export(adapter, "--out", str(tmp_path / "half"), "--dtype", "bfloat16")
    assert code == 0
    with safe_open(tmp_path / "half" / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118 - no dict


def test_the_card_of_a_merged_model_keeps_the_terms_and_loses_the_adapter(adapter: Path, tmp_path: Path) -> None:
    export(adapter, "--out", str(tmp_path / "merged"), "--base-id", "org/base")
    card = ModelCard.load(tmp_path / "merged" / "README.md")
    assert (card.data.library_name, card.data.base_model) == ("transformers", "org/base")
    assert card.data.tags == ["lora", "base_model:finetune:org/base"]
    assert "ε covers what this model tells of one client's examples." in card.text
    assert 'AutoModelForCausalLM.from_pretrained(".")' in card.text
    assert "Load the adapter" not in card.text
    assert "## License" in card.text


def test_an_exported_adapter_is_what_is_published_and_no_more(adapter: Path, tmp_path: Path) -> None:
    (adapter / "secret.txt").write_text("who took part")
    code, _ = export(adapter, "--out", str(tmp_path / "a"), "--form", "adapter", "--base-id", "org/base")
    (adapter / "secret.txt").unlink()
    assert code == 0
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "README.md"
    }  # fmt: skip
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_bytes())["base_model_name_or_path"] == "org/base"


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_what_peft_says_of_a_local_base_model_is_not_exported(
    adapter: Path, model: str, tmp_path: Path, form: str
) -> None:
    """Its own card has the path in its head."""
    foreign = tmp_path / "run" / "adapter"
    shutil.copytree(adapter.parent, foreign.parent)
    head = f"base_model: {model}\nlibrary_name: peft\ntags:\n- base_model:adapter:{model}\n- lora"
    (foreign / "README.md").write_text(f"---\n{head}\n---\n\n# Model Card\n", encoding="utf-8")
    code, output = export(foreign, "--out", str(tmp_path / "out"), "--form", form)
    assert code == 0, output
    assert model.encode() not in everything(tmp_path / "out")
    assert ModelCard.load(tmp_path / "out" / "README.md").data.tags == ["lora"]


@pytest.mark.parametrize("form", ["merged", "adapter"])
@pytest.mark.parametrize("head", ["!!python/object/apply:os.getcwd []", "tags: 5", "tags: [[x]]", "- x", "[" * 10_000])
def test_a_card_that_cannot_be_read_is_refused_before_anything_is_written(
    adapter: Path, tmp_path: Path, form: str, head: str
) -> None:
    foreign = tmp_path / "run" / "adapter"
    shutil.copytree(adapter.parent, foreign.parent)
    (foreign / "README.md").write_text(f"---\n{head}\n---\n\n# Model Card\n", encoding="utf-8")
    code, output = export(foreign, "--out", str(tmp_path / "out"), "--form", form)
    assert code == 1
    assert f'error: --adapter "{foreign}": the head of its README.md is not that of a model card' in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--public"], "--public: no effect without --push-to"),
        (["--form", "adapter", "--dtype", "float16"], "--dtype float16: an adapter is float32"),
    ],
)
def test_what_contradicts_itself_is_refused(adapter: Path, tmp_path: Path, options: list[str], said: str) -> None:
    code, output = export(adapter, "--out", str(tmp_path / "new"), *options)
    assert code == 1
    assert said in output
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "there.txt").touch()
    code, output = export(adapter, "--out", str(tmp_path))
    assert code == 1
    assert "there is something already" in output


def test_a_folder_that_cannot_be_made_is_refused_before_a_model_is_loaded(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "load_base", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "new", Path("/proc/new")):
        code, output = export(adapter, "--out", str(place))
        assert code == 1
        assert f"--out {place}: " in output
        assert "give a folder that you may write into" in output


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_a_disk_without_room_is_a_line_that_names_the_folder(adapter: Path, tmp_path: Path, form: str) -> None:
    with full_disk(2000):
        code, output = export(adapter, "--out", str(tmp_path / "a"), "--form", form)
    assert code == 1
    said = output.splitlines()[-1]
    assert said.startswith("error: ")
    assert str(tmp_path / "a") in said
    assert "File too large" in said


def push(hub: FakeHub, adapter: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's address is read when its library is imported."""
    own = {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_test", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    program = [sys.executable, "-m", "workbench.program", "export", "--adapter", str(adapter), "--out", str(out)]
    return subprocess.run(
        [*program, "--form", "adapter", "--push-to", "org/tuned", *options],
        env={**os.environ, **own}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_was_exported_goes_to_a_private_repository_in_one_commit(adapter: Path, tmp_path: Path) -> None:
    with fake_hub() as hub:
        done = push(hub, adapter, tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert f"uploaded: {hub.address}/org/tuned/commit/1" in done.stdout
    assert hub.made["org/tuned"]["visibility"] == "private"
    sent = hub.files["org/tuned"]
    assert sent == {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert hub.tokens == {"Bearer hf_test"}


def test_a_hub_that_refuses_is_one_line_and_the_folder_stays(adapter: Path, tmp_path: Path) -> None:
    with fake_hub() as hub:
        hub.refuse = True
        done = push(hub, adapter, tmp_path / "a", "--public")
    assert done.returncode == 1
    assert '--push-to "org/tuned": ' in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "a" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_a_file_that_a_foreign_adapter_links_to_is_not_exported(adapter: Path, tmp_path: Path, form: str) -> None:
    foreign, secret = tmp_path / "run" / "adapter", tmp_path / "id_rsa"
    shutil.copytree(adapter.parent, foreign.parent)
    secret.write_text("a private key", encoding="utf-8")
    (foreign / "README.md").unlink()
    (foreign / "README.md").symlink_to(secret)
    code, output = export(foreign, "--out", str(tmp_path / "out"), "--form", form)
    assert code != 0
    assert "README.md is a link out of that folder" in " ".join(output.split())
    assert not (tmp_path / "out").exists()


def test_an_adapter_in_the_hub_s_cache_which_is_all_links_is_exported(adapter: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    shutil.copytree(adapter, repository / "blobs")
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for blob in (repository / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    code, output = export(snapshot, "--out", str(tmp_path / "out"), "--form", "adapter")
    assert code == 0, output
