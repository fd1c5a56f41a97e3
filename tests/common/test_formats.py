"""Rows in the layouts of the public sets, as the hub serves them: what a model reads, learns and may choose from."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from common.config import ConfigError, DataConfig, RunConfig
from common.data import FORMATS, IGNORED, evaluation_examples, load_examples, private_examples, private_tokens
from common.demo.model import load_tokenizer
from tests.support.example_rows import RECORDS, records
from tests.support.tiny import write_jsonl

TOKENIZER = load_tokenizer()
INTRO = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


def load(name: str, path: str | Path | None = None, **changes: Any) -> Dataset:
    return load_examples(str(path or RECORDS / f"{name}.jsonl"), DataConfig(format=name, **changes))


def test_every_format_that_can_be_configured_is_known_and_has_records() -> None:
    allowed = DataConfig.model_fields["format"].annotation.__args__  # type: ignore[union-attr]
    assert set(allowed) == {"columns", *FORMATS} == {"columns", *(path.stem for path in RECORDS.iterdir())}


# format -> the first example's prompt, completion, message, group, choices
FIRST: dict[str, tuple[str, str, str, str | None, list[str] | None]] = {
    "dolly": (
        f"{INTRO}\n\n### Instruction:\nName a metal that is liquid at room temperature.\n\n### Response:",
        "\nMercury.",
        "Name a metal that is liquid at room temperature.",
        "open_qa",
        None,
    ),
    "mmlu": (
        "The following are multiple choice questions (with answers) about elementary mathematics.\n\n"
        "What is 2 + 3?\nA. 4\nB. 5\nC. 6\nD. 7\nAnswer:",
        " B",
        "The following are multiple choice questions (with answers) about elementary mathematics.\n\n"
        "What is 2 + 3?\nA. 4\nB. 5\nC. 6\nD. 7\nAnswer:",
        "elementary_mathematics",
        [" A", " B", " C", " D"],
    ),
    "ceval": (
        "以下是中国考试的单项选择题，请选出其中的正确答案。\n\n一加一等于____。\nA. 一\nB. 二\nC. 三\nD. 四\n答案：",
        " B",
        "以下是中国考试的单项选择题，请选出其中的正确答案。\n\n一加一等于____。\nA. 一\nB. 二\nC. 三\nD. 四\n答案：",
        "all",
        [" A", " B", " C", " D"],
    ),
    "alpaca": (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nGive the opposite.\n\n### Input:\ncold"
        "\n\n### Response:",
        "\nHot.",
        "Give the opposite.\n\ncold",
        None,
        None,
    ),
    "e2e": (
        "Put the data into words.\n\nData: name[The Oak], eatType[pub], area[riverside]\nText:",
        " The Oak is a pub by the river.",
        "Put the data into words.\n\nname[The Oak], eatType[pub], area[riverside]",
        None,
        None,
    ),
    "dart": (
        "Put the data into words.\n\nData: Oak Hill : POPULATION : 1200 | Oak Hill : COUNTRY : Norland\nText:",
        " Oak Hill in Norland has 1200 people.",
        "Put the data into words.\n\nOak Hill : POPULATION : 1200 | Oak Hill : COUNTRY : Norland",
        "WikiSQL_lily",
        None,
    ),
    "dialogsum": (
        "Summarise the dialogue.\n\n#Person1#: Is the shop open?\n#Person2#: Yes, until six.\n\nSummary:",
        " #Person2# says the shop is open until six.",
        "Summarise the dialogue.\n\n#Person1#: Is the shop open?\n#Person2#: Yes, until six.",
        None,
        None,
    ),
    "chat": (
        "Be brief.\n\nWhat melts at 0 degrees?\n\nIce.\n\nAnd at 29?",
        "Gallium.",
        "And at 29?",
        None,
        None,
    ),
    "text": ("", "The ferry leaves at nine.", "", None, None),
}


@pytest.mark.parametrize("name", FIRST)
def test_a_row_becomes_its_formats_prompt_and_completion(name: str) -> None:
    row = load(name)[0]
    prompt, completion, message, group, choices = FIRST[name]
    assert (row["prompt"], row["completion"], row["message"]) == (prompt, completion, message)
    assert (row.get("group"), row.get("choices")) == (group, choices)


def test_a_context_is_part_of_dollys_prompt() -> None:
    row = load("dolly")[1]
    assert row["prompt"].endswith(
        "Who wrote the report?\n\nInput:\nThe report was written by Ada in spring.\n\n### Response:"
    )
    assert row["message"] == "Who wrote the report?\n\nThe report was written by Ada in spring."


def test_alpacas_prompt_and_completion_are_its_own_text_column() -> None:
    rows = load("alpaca")
    assert [row["prompt"] + row["completion"] for row in rows] == [row["text"] for row in records("alpaca")[:2]]


def test_a_question_without_a_subject_belongs_to_the_auxiliary_set() -> None:
    row = load("mmlu")[2]
    assert row["group"] == "auxiliary"
    assert row["prompt"].startswith("The following are multiple choice questions (with answers).\n\n")


def test_every_text_of_a_dart_row_is_an_example_of_the_same_prompt(tmp_path: Path) -> None:
    rows = load("dart")
    assert [row["completion"] for row in rows] == [
        " Oak Hill in Norland has 1200 people.",
        " 1200 people live in Oak Hill, Norland.",
        " Fern serves French food.",
    ]
    assert rows[0]["prompt"] == rows[1]["prompt"] != rows[2]["prompt"]
    raw = records("dart")
    for row in raw:  # the layout of DART's own JSON files
        pairs = zip(row["annotations"]["source"], row["annotations"]["text"], strict=True)
        row["annotations"] = [{"source": source, "text": text} for source, text in pairs]
    assert load("dart", write_jsonl(tmp_path / "raw.jsonl", raw)).to_list() == rows.to_list()


@pytest.mark.parametrize("name", ["alpaca", "ceval", "chat"])
def test_a_row_without_an_answer_is_left_out_and_counted(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(load(name)) == 2
    assert f"{name}.jsonl: 1 of 3 rows have no answer and are left out" in caplog.text


def test_a_split_that_hides_its_answers_is_refused(tmp_path: Path) -> None:
    hidden = [row | {"answer": ""} for row in records("ceval")]
    with pytest.raises(ConfigError, match=r'"ceval": none of the 3 rows of .* has an answer'):
        load("ceval", write_jsonl(tmp_path / "test.jsonl", hidden))


@pytest.mark.parametrize(("answer", "letter"), [(3, " D"), ("3", " D"), ("d", " D"), ("A", " A")])
def test_answers_are_numbers_or_letters(tmp_path: Path, answer: int | str, letter: str) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", [records("mmlu")[0] | {"answer": answer}])
    assert load("mmlu", path)[0]["completion"] == letter


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": 4}, r"row 2 of .*: answer = '4': 0 to 3 or A to D is needed"),
        ({"answer": 12}, r"answer = '12'"),
        ({"choices": ["yes", "no"]}, r"row 2 of .*: choices = \['yes', 'no'\]: a list of 4 texts is needed"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_by_its_number(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    good = records("mmlu")[0]
    with pytest.raises(ConfigError, match=said):
        load("mmlu", write_jsonl(tmp_path / "own.jsonl", [good, good | changes]))


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_another_layout_is_refused_with_the_columns_that_it_lacks(name: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", [{"ask": "a", "say": "b"}])
    with pytest.raises(ConfigError) as refusal:
        load(name, path)
    for part in (f'data.format = "{name}"', *FORMATS[name].columns, "it has ask, say", 'data.format = "columns"'):
        assert part in str(refusal.value)


@pytest.mark.parametrize("key", ["prompt-column", "completion-column"])
def test_a_format_knows_its_columns(key: str) -> None:
    with pytest.raises(ConfigError, match=rf'data.{key} = "ask" with data.format = "dolly"'):
        RunConfig.parse({"data.format": "dolly", f"data.{key}": "ask"})
    assert RunConfig.parse({"data.format": "columns", f"data.{key}": "ask"})


def test_the_demo_has_no_format_of_another_set() -> None:
    with pytest.raises(ConfigError, match=r'data.format = "mmlu" with data.name = "demo"'):
        private_examples(DataConfig(format="mmlu"), 0, 1, 1)


def test_rows_of_a_format_may_be_grouped_by_a_column_of_their_own(tmp_path: Path) -> None:
    rows = [row | {"hospital": place} for row, place in zip(records("dolly"), "aba", strict=True)]
    path = str(write_jsonl(tmp_path / "own.jsonl", rows))
    data = DataConfig(name=path, format="dolly", partitioner="natural", group_column="hospital")
    assert sorted(len(private_examples(data, client, 2, 1)) for client in range(2)) == [1, 2]


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"chat"}))  # which needs a template: test_chats.py
def test_a_sites_own_file_may_have_any_format(name: str) -> None:
    tokens = private_tokens(DataConfig(format=name), TOKENIZER, 3, 7, 1, str(RECORDS / f"{name}.jsonl"))
    rows = load(name)
    assert len(tokens) == len(rows)
    for labels, row in zip(tokens.labels, rows, strict=True):
        learned = labels[labels != IGNORED].tolist()
        assert learned == TOKENIZER(row["completion"], add_special_tokens=False)["input_ids"] + [TOKENIZER.eos_token_id]


def hub_folder(folder: Path, sets: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """A directory as a hub set is downloaded: subsets with splits, declared in the README."""
    configs = []
    for subset, splits in sets.items():
        configs.append(f"- config_name: {subset}\n  data_files:")
        for split, rows in splits.items():
            Dataset.from_list(rows).to_parquet(folder / subset / f"{split}-0.parquet")
            configs.append(f"  - split: {split}\n    path: {subset}/{split}-*.parquet")
    (folder / "README.md").write_text("---\nconfigs:\n" + "\n".join(configs) + "\n---\n")
    return str(folder)


@pytest.fixture
def mmlu(tmp_path: Path) -> str:
    """MMLU's subsets ``all`` and ``auxiliary_train``; the latter's rows are a record in a column ``train``."""
    one, two, auxiliary = records("mmlu")
    sets = {
        "all": {"auxiliary_train": [auxiliary], "dev": [two, two], "test": [one]},
        "auxiliary_train": {"train": [{"train": auxiliary}]},
    }
    return hub_folder(tmp_path / "mmlu", sets)


def test_a_subset_and_a_split_of_a_hub_set_are_read(mmlu: str) -> None:
    data = DataConfig(name=mmlu, format="mmlu", subset="all", train_split="dev", evaluation=mmlu, partitioner="iid")
    assert private_examples(data, 0, 1, 1)["group"][:] == ["astronomy"]
    held_out = evaluation_examples(data, 1)
    assert held_out is not None
    assert held_out["group"][:] == ["elementary_mathematics"]
    other = data.model_copy(update={"evaluation_split": "auxiliary_train"})
    assert evaluation_examples(other, 1)["group"][:] == ["auxiliary"]  # type: ignore[index]


def test_mmlus_nested_auxiliary_subset_is_unfolded(mmlu: str) -> None:
    rows = load("mmlu", mmlu, subset="auxiliary_train")
    assert rows[0]["prompt"] == load("mmlu")[2]["prompt"]


def test_several_subsets_are_read_together_and_name_their_groups(tmp_path: Path) -> None:
    one, two, _ = records("ceval")
    path = hub_folder(tmp_path / "ceval", {"law": {"dev": [one]}, "logic": {"dev": [two]}})
    rows = load("ceval", path, subset="law, logic", train_split="dev")
    assert rows["group"][:] == ["law", "logic"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subset": "all", "train_split": "nowhere"}, r"subset 'all', split 'nowhere'\): .*nowhere"),
        ({"subset": "nothing"}, r"subset 'nothing', split 'train'\): .*nothing.*not found"),
    ],
)
def test_a_split_or_subset_that_is_not_there_is_refused(mmlu: str, changes: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load("mmlu", mmlu, **changes)


def test_a_client_learns_from_each_of_its_examples_once(tmp_path: Path) -> None:
    first, second, third = records("dolly")
    path = str(write_jsonl(tmp_path / "own.jsonl", [first, second, first, second | {"response": "Ada."}, third, first]))
    kept = [
        " ".join(text.split()) for text in private_examples(DataConfig(format="dolly"), 0, 1, 1, path)["completion"]
    ]
    assert kept == ["Mercury.", "Ada wrote it.", "Ada.", "Blue and green."]


def test_the_demos_examples_stay_as_they_are_drawn_and_have_no_end() -> None:
    data = DataConfig(examples_per_client=400)
    rows = private_examples(data, 0, 1, 1)
    assert len(rows) == 400 > len({*zip(rows["prompt"], rows["completion"], strict=True)})
    tokens = private_tokens(data, TOKENIZER, 0, 1, 1)
    assert not (tokens.labels == TOKENIZER.eos_token_id).any()
    assert torch.equal((tokens.labels != IGNORED).sum(dim=1), torch.ones(400))


def test_a_client_that_no_example_falls_to_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    none = Dataset.from_dict({"prompt": [], "completion": []})
    monkeypatch.setattr("common.data.partition.private_examples", lambda *_: none)
    with pytest.raises(ConfigError, match=r'partition 3 of 7\) has no examples .*"dirichlet" gave it none of "own"'):
        private_tokens(DataConfig(name="own"), TOKENIZER, 3, 7, 1)


@pytest.mark.parametrize(("answer", "letter"), [(1.0, " B"), ("1.0", " B"), ("b", " B"), (3, " D")])
def test_an_answer_may_be_a_float(answer: object, letter: str) -> None:
    """As a column of numbers with a gap holds it."""
    row = {"question": "Which?", "subject": "s", "choices": ["w", "x", "y", "z"], "answer": answer}
    assert [example.completion for example in FORMATS["mmlu"].examples(row)] == [letter]


@pytest.mark.parametrize("answer", [None, float("nan"), "", -1, -1.0])
def test_a_question_without_an_answer_teaches_nothing(answer: object) -> None:
    row = {"question": "Which?", "subject": "s", "choices": ["w", "x", "y", "z"], "answer": answer}
    assert list(FORMATS["mmlu"].examples(row)) == []


@pytest.mark.parametrize("gap", [{"tripleset": None}, {"annotations": None}, {"tripleset": []}])
def test_a_dart_row_without_triples_or_texts_teaches_nothing(gap: dict[str, Any]) -> None:
    assert list(FORMATS["dart"].examples(records("dart")[0] | gap)) == []
