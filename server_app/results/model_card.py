"""``adapter/README.md``: the model card with which an adapter is published, and what its epsilon says and does not."""

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from common.config import LoraConfig, ModelConfig
from common.counts import count
from server_app.results.facts import ALL_DONE, privacy_table
from server_app.results.markdown import table_row
from server_app.results.page import private_rows, utility_rows
from server_app.results.published_names import is_local, public_name
from server_app.rounds.controls import control_warning

_TAGS = ["lora", "federated-learning", "differential-privacy", "flower", "dr-encoder"]
_DEMO_BASE = """from common.demo.model import load_model  # the demo's base model comes with DR-Encoder for Flower

base = load_model()"""
_OTHER_BASE = """from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{name}"){comment}"""
_LOADING = """```python
from peft import PeftModel
{base}
model = PeftModel.from_pretrained(base, "adapter")  # this folder
```"""


def model_card(model: ModelConfig, lora: LoraConfig, report: dict[str, Any]) -> str:
    """The card of a run's adapter, from two sections of its configuration and what ``report.json`` holds."""
    text = f"---\n{_metadata(model.name).to_yaml()}\n---\n\n{_text(model, lora, report)}"
    return str(ModelCard(text, ignore_metadata_errors=True))


def _metadata(name: str) -> ModelCardData:
    """The head that model hubs read; a base model is named there only if it is one of a hub."""
    base = None if name == "demo" or is_local(name) else name
    tags = [f"base_model:adapter:{base}", *_TAGS] if base else _TAGS
    return ModelCardData(
        base_model=base, library_name="peft", pipeline_tag="text-generation", license="unknown", tags=list(tags)
    )


def _text(model: ModelConfig, lora: LoraConfig, report: dict[str, Any]) -> str:
    run, privacy, versions = report["run"], report["privacy"], report["run"]["versions"]
    used = ", ".join(f"{name} {versions[name]}" for name in ("flwr", "peft", "transformers", "torch", "dp-accounting"))
    lines = [
        f"# LoRA adapter of {_base_words(model.name)}",
        "",
        "Made by federated fine-tuning with DR-Encoder for Flower: the clients' examples stayed with them. They sent "
        "codes of gradients, and before that what the strategy's first stage measures, under the terms below.",
        *_loud(control_warning(run["control"]), report["outcome"]["warning"]),
        "",
        "## Privacy",
        "",
        *_loud(_not_private(privacy)),
        *_table(privacy_table(privacy)),
        "",
        "ε covers what this adapter tells of one client's examples to somebody who has it and every intermediate one. "
        "It does not cover what single messages told the server (see above), what the base model was trained on, the "
        "examples held out for evaluation (the operator named them public; their losses are published), or other runs "
        "on the same clients: those add up.",
        "",
        "## Training",
        "",
        *_training_rows(model, lora, report),
        "",
        "## Evaluation",
        "",
        *utility_rows(report["outcome"]),
        "",
        *private_rows(report["outcome"]),
        "## How to load it",
        "",
        _LOADING.format(base=_base_code(model.name)),
        "",
        "## License",
        "",
        'Not stated: whoever publishes this adapter states one here and in the head of this file (`license`, "unknown" '
        "until then). The base model's license holds too.",
        "",
        f"Versions: {used}.",
        "",
    ]
    return "\n".join(lines)


def _training_rows(model: ModelConfig, lora: LoraConfig, report: dict[str, Any]) -> list[str]:
    run, codec, rate = report["run"], report["codec"], report["privacy"]["sampling_rate"]
    bits = "" if model.quantization == "none" else f", quantized to {model.quantization} bits while training"
    return _table(
        {
            "base model": f"{_base_words(model.name)}{bits}",
            "strategy": f"{run['strategy']}, codec {codec['kind']} with {count(codec['values'], 'value')}",
            "rounds": f"{run['rounds_run']} of {run['rounds_planned']}{_ended_early(report)}",
            "clients": f"{run['clients']} enrolled, each in a round with probability {rate:g}",
            "LoRA": f"rank {lora.rank}, alpha {lora.alpha:g}, modules {lora.target_modules}",
        }
    )


def _ended_early(report: dict[str, Any]) -> str:
    """Why there were fewer rounds than planned, and of which the adapter then is; of a whole run nothing."""
    why = report["outcome"]["stopped_because"]
    return "" if why == ALL_DONE else f"; ended because: {why}"


def _base_words(name: str) -> str:
    if name == "demo":
        return "the demo model of DR-Encoder for Flower"
    return f"{public_name(name)} (a local copy)" if is_local(name) else name


def _base_code(name: str) -> str:
    if name == "demo":
        return _DEMO_BASE
    return _OTHER_BASE.format(name=public_name(name), comment="  # your copy of it" if is_local(name) else "")


def _not_private(privacy: dict[str, Any]) -> str:
    why = privacy["not_private_because"]
    return f"Not differentially private end to end, because {why}." if why else ""


def _table(rows: dict[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *map(table_row, rows.items())]


def _loud(*sentences: str) -> list[str]:
    return [line for sentence in sentences if sentence for line in ("", f"**{sentence}**", "")]
