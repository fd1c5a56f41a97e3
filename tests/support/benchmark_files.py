"""A tiny Llama on disk, an adapter that answers B to everything, and MMLU's and C-Eval's tasks over own questions."""

from pathlib import Path
from typing import Any

import lm_eval
import tomli_w
import torch
import yaml
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from common.config import RunConfig, nest
from common.data import tokenize
from common.model.adapted import AdaptedModel, load_adapted_model
from tests.support.tiny import write_jsonl

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
_SPECIAL = ["<s>", "</s>", "<pad>"]
# subject -> the right answers to its questions; the disciplines are the benchmarks' own
MMLU = {
    "abstract_algebra": "BA",  # STEM
    "astronomy": "BBB",  # STEM
    "sociology": "BC",  # Social
    "philosophy": "AACD",  # Humanities
    "nutrition": "B",  # Others
}
CEVAL = {
    "college_physics": "BACD",  # STEM, hard
    "high_school_chemistry": "BB",  # STEM, hard
    "middle_school_biology": "BBBBBB",  # STEM
    "marxism": "AB",  # Social
    "law": "C",  # Humanities
    "accountant": "BBD",  # Others
}


def save_model(folder: Path, *, chat: bool = False, tied: bool = False) -> str:
    """A random two-layer Llama with a byte-level tokenizer; returns its path."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        vocab_size=300,
        show_progress=False,
    )
    core.train_from_iterator(["\nAnswer: A B C D 答案："] * 3, trainer)
    special = dict(zip(("bos_token", "eos_token", "pad_token"), _SPECIAL, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=512, **special)
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                tie_word_embeddings=tied,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=512,
                initializer_range=0.3,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=2,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_run(folder: Path, model: str, targets: str = "q_proj,v_proj,o_proj") -> Path:
    """A results folder with ``config.toml`` and an adapter trained to answer B; returns ``adapter/``."""
    changes = {
        "model.name": model,
        "lora.rank": 4,
        "lora.alpha": 8.0,
        "lora.target-modules": targets,
        "model.device": "cpu",
        "data.name": "private.jsonl",
    }
    config = RunConfig.parse(changes)
    adapted = load_adapted_model.__wrapped__(config.model, config.lora, config.seed)
    _teach(adapted, [question(subject, number, "ABCD") for subject in MMLU for number in range(2)])
    adapted.model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    (folder / "config.toml").write_text(tomli_w.dumps(nest(config.flat())), encoding="utf-8")
    return folder / "adapter"


def _teach(adapted: AdaptedModel, questions: list[str]) -> None:
    """Descend on the loss of `` B`` after either benchmark's way to ask."""
    prompts = [text + ask for text in questions for ask in ("\nAnswer:", "\n答案：")]
    tokens = tokenize(adapted.tokenizer, prompts, [" B"] * len(prompts), 512)
    flat = torch.nn.Parameter(adapted.parameters)
    flat.grad = adapted.gradients
    optimizer = torch.optim.Adam([flat], lr=0.02)
    for _ in range(40):
        adapted.gradients.zero_()
        adapted.model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, labels=tokens.labels
        ).loss.backward()
        optimizer.step()


def question(subject: str, number: int, options: str) -> str:
    """A question with its options, as both benchmarks print them."""
    listed = "\n".join(
        f"{letter}. {subject[:3]} {number}{option}" for letter, option in zip("ABCD", options, strict=True)
    )
    return f"Which part of {subject} has the number {number}?\n{listed}"


def mmlu_rows(subject: str, answers: str) -> list[dict[str, Any]]:
    """Rows in the layout of cais/mmlu."""
    return [
        {
            "question": f"Which part of {subject} has the number {number}?",
            "subject": subject,
            "choices": [f"{subject[:3]} {number}{option}" for option in "ABCD"],
            "answer": "ABCD".index(answer),
        }
        for number, answer in enumerate(answers)
    ]


def ceval_rows(subject: str, answers: str) -> list[dict[str, Any]]:
    """Rows in the layout of ceval/ceval-exam."""
    return [
        {
            "id": number,
            "question": f"Which part of {subject} has the number {number}?",
            **{letter: f"{subject[:3]} {number}{letter}" for letter in "ABCD"},
            "answer": answer,
            "explanation": "",
        }
        for number, answer in enumerate(answers)
    ]


def save_tasks(folder: Path) -> Path:
    """Task files of the harness's own two groups, which differ from its files in where the data lie."""
    tasks = Path(lm_eval.__file__).parent / "tasks"
    sets = (
        ("mmlu", "mmlu_", tasks / "mmlu/default/_default_template_yaml", MMLU, mmlu_rows, "test"),
        ("ceval-valid", "ceval-valid_", tasks / "ceval/_default_ceval_yaml", CEVAL, ceval_rows, "val"),
    )
    folder.mkdir()
    for group, prefix, template, subjects, rows_of, split in sets:
        for subject, answers in subjects.items():
            files = {}
            for name, given in ((split, answers), ("dev", "AB")):
                files[name] = str(write_jsonl(folder / f"{prefix}{subject}.{name}.jsonl", rows_of(subject, given)))
            about = subject.replace("_", " ")
            own = {
                "task": prefix + subject,
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": files},
                "description": f"The following are multiple choice questions (with answers) about {about}.\n\n",
            }
            (folder / f"{prefix}{subject}.yaml").write_text(
                yaml.safe_dump(yaml.safe_load(template.read_text(encoding="utf-8")) | own), encoding="utf-8"
            )
        members = {"group": group, "task": [prefix + subject for subject in subjects]}
        (folder / f"{group}.yaml").write_text(yaml.safe_dump(members), encoding="utf-8")
    return folder


def mmlu_questions() -> Dataset:
    """All of the MMLU questions in one data set."""
    return Dataset.from_list([row for subject, answers in MMLU.items() for row in mmlu_rows(subject, answers)])
