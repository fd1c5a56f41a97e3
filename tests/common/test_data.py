"""Private and public examples: masks, partitions, files."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from common.config import ConfigError, DataConfig
from common.data import (
    IGNORED,
    TokenisedExamples,
    evaluation_examples,
    held_out_prompts,
    load_examples,
    private_examples,
    private_tokens,
    retention_examples,
    tokenise,
    validation_examples,
)
from common.demo.facts import split_known
from common.demo.model import load_tokenizer
from common.demo.tasks import evaluation_examples as demo_questions
from common.demo.tasks import splits_of
from tests.false_alarms import statistical
from tests.tiny import write_jsonl

TOKENIZER = load_tokenizer()
PROMPTS = ["question : what is the sum of 2 and 3 ? answer :", "what is the sum of 1 and 1 ?"]
ANSWERS = [" 5", " 2"]


def words(ids: torch.Tensor) -> list[str]:
    return TOKENIZER.convert_ids_to_tokens(ids.tolist())


def test_labels_are_the_completion_and_nothing_else() -> None:
    tokens = tokenise(TOKENIZER, PROMPTS, ANSWERS, 64)
    assert len(tokens) == 2
    assert [words(row[row != IGNORED]) for row in tokens.labels] == [["5"], ["2"]]
    for ids, mask, labels in zip(tokens.input_ids, tokens.attention_mask, tokens.labels, strict=True):
        kept = labels != IGNORED
        assert torch.equal(ids[kept], labels[kept])
        assert kept.nonzero().flatten().tolist() == [int(mask.sum()) - 1], "the label is the last real token"


def test_padding_is_masked_and_ignored() -> None:
    tokens = tokenise(TOKENIZER, PROMPTS, ANSWERS, 64)
    padding = tokens.attention_mask == 0
    assert padding.sum(dim=1).tolist() == [0, 4]
    assert (tokens.input_ids[padding] == TOKENIZER.pad_token_id).all()
    assert (tokens.labels[padding] == IGNORED).all()


def test_a_long_example_loses_the_start_of_its_prompt_and_keeps_its_completion() -> None:
    tokens = tokenise(TOKENIZER, PROMPTS[:1], [" 5 5 5"], 6)
    assert words(tokens.input_ids[0]) == ["?", "answer", ":", "5", "5", "5"]
    assert tokens.labels[0].tolist()[:3] == [IGNORED] * 3
    assert words(tokens.labels[0][3:]) == ["5", "5", "5"]


def test_a_completion_that_fills_the_length_has_no_prompt_left() -> None:
    tokens = tokenise(TOKENIZER, PROMPTS[:1], [" 5 4 3"], 2)
    assert words(tokens.labels[0]) == ["4", "3"]


def test_nothing_makes_no_rows() -> None:
    assert len(tokenise(TOKENIZER, [], [], 8)) == 0


def test_selected_rows_are_cut_to_the_longest_of_them() -> None:
    tokens = tokenise(TOKENIZER, PROMPTS, ANSWERS, 64)
    short = tokens.select(torch.tensor([1]))
    assert short.input_ids.shape == short.labels.shape == (1, tokens.input_ids.shape[1] - 4)
    assert torch.equal(short.input_ids[0], tokens.input_ids[1, :-4])
    both = tokens.select(torch.tensor([1, 0]))
    assert torch.equal(both.input_ids, tokens.input_ids[[1, 0]])


ROWS = [{"prompt": f"p{index}", "completion": " c", "group": "abcd"[index // 10]} for index in range(40)]


@pytest.fixture(scope="module")
def sorted_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 rows in order of their group."""
    return str(write_jsonl(tmp_path_factory.mktemp("own") / "rows.jsonl", ROWS))


def parts(data: DataConfig, count: int, seed: int = 1) -> list[Dataset]:
    return [private_examples(data, number, count, seed) for number in range(count)]


@pytest.mark.parametrize(("partitioner", "clients"), [("iid", 5), ("dirichlet", 5), ("natural", 4)])
def test_partitions_are_disjoint_and_cover_everything(sorted_file: str, partitioner: str, clients: int) -> None:
    drawn = parts(DataConfig(name=sorted_file, partitioner=partitioner), clients)
    prompts = [prompt for part in drawn for prompt in part["prompt"]]
    assert Counter(prompts) == Counter(row["prompt"] for row in ROWS)
    assert [len(part) for part in drawn] == [40 // clients] * clients


@pytest.mark.parametrize("partitioner", ["iid", "dirichlet"])
def test_partitions_are_those_of_the_seed(sorted_file: str, partitioner: str) -> None:
    data = DataConfig(name=sorted_file, partitioner=partitioner)
    first, again, other = (
        [list(part["prompt"]) for part in parts(data.model_copy(update={"dirichlet_alpha": alpha}), 5, seed)]
        for seed, alpha in ((1, 0.3), (1, 0.3), (2, 0.3))
    )
    assert first == again
    assert first != other


@statistical(6 * 2 / math.comb(40, 20), "seeded")
def test_iid_clients_of_a_sorted_file_hold_groups_from_all_over_it(sorted_file: str) -> None:
    """2 clients with 20 rows of 4 groups of 10: unshuffled both would hold two groups, shuffled one does in 9e-11."""
    for part in parts(DataConfig(name=sorted_file, partitioner="iid"), 2):
        assert len(set(part["group"])) > 2


def test_a_small_concentration_gives_each_client_few_groups(sorted_file: str) -> None:
    def largest_share(alpha: float) -> float:
        data = DataConfig(name=sorted_file, partitioner="dirichlet", dirichlet_alpha=alpha)
        return sum(max(Counter(part["group"]).values()) / len(part) for part in parts(data, 4)) / 4

    assert largest_share(0.05) > largest_share(1000.0) + 0.15


def test_natural_clients_hold_one_group_each(sorted_file: str) -> None:
    groups = [set(part["group"]) for part in parts(DataConfig(name=sorted_file, partitioner="natural"), 4)]
    assert sorted(groups, key=str) == [{"a"}, {"b"}, {"c"}, {"d"}]


def test_more_clients_than_natural_groups_are_refused(sorted_file: str) -> None:
    data = DataConfig(name=sorted_file, partitioner="natural")
    with pytest.raises(ConfigError, match=r'data.partitioner = "natural" makes 4 partitions of "group", but .* 5'):
        private_examples(data, 4, 5, 1)


def test_more_clients_than_examples_are_refused(sorted_file: str) -> None:
    with pytest.raises(ConfigError, match=r"has 40 examples for 41 clients"):
        private_examples(DataConfig(name=sorted_file, partitioner="iid"), 0, 41, 1)


def test_a_missing_partition_column_is_refused_with_those_that_exist(sorted_file: str) -> None:
    data = DataConfig(name=sorted_file, partition_by="hospital")
    with pytest.raises(ConfigError, match=r'data.partition-by = "hospital": .*prompt, completion, group'):
        private_examples(data, 0, 4, 1)


@pytest.mark.parametrize("split", ["evaluation", "validation"])
def test_no_client_holds_a_fact_that_is_evaluated(split: str) -> None:
    data = DataConfig(examples_per_client=12, split=split)
    held = {(prompt, answer) for part in parts(data, 30) for prompt, answer in zip(*columns(part), strict=True)}
    asked = set(zip(*columns(evaluation_examples(data, 1)), strict=True))
    assert len(held) > 100
    assert len(asked) == len(split_known()[split])
    assert not {prompt for prompt, _ in held} & {prompt for prompt, _ in asked}


def columns(rows: Dataset | None) -> tuple[list[str], list[str]]:
    assert rows is not None
    return list(rows["prompt"]), list(rows["completion"])


def test_demo_clients_get_the_configured_number_of_examples() -> None:
    assert [len(part) for part in parts(DataConfig(examples_per_client=7), 5)] == [7] * 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "poetry"}, r'data.task = "poetry": the demo data have elicitation, knowledge'),
        ({"split": "test"}, r'data.split = "test": data.task = "elicitation" has evaluation, validation'),
    ],
)
def test_unknown_demo_tasks_and_splits_are_refused(changes: dict[str, str], message: str) -> None:
    data = DataConfig(**changes)
    for call in (lambda: private_examples(data, 0, 2, 1), lambda: evaluation_examples(data, 1)):
        with pytest.raises(ConfigError, match=message):
            call()


MAPPED = DataConfig(prompt_column="ask", completion_column="say", partitioner="iid")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.csv", "ask,say\nwhat is the sum of 1 and 1 ?, answer\nwhat is the sum of ?, which\n"),
        (
            "own.jsonl",
            '{"ask": "the sum of 1 and 1", "say": " answer"}\n{"ask": "the sum of 1 and 2", "say": " which"}\n',
        ),
    ],
)
def test_a_sites_own_file_is_read_with_its_own_column_names(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    tokens = private_tokens(MAPPED, TOKENIZER, 3, 7, 1, str(path))
    assert isinstance(tokens, TokenisedExamples)
    assert [words(row[row != IGNORED]) for row in tokens.labels] == [["answer", "</s>"], ["which", "</s>"]], (
        "the whole file, not a partition"
    )


@pytest.mark.parametrize("key", ["prompt-column", "completion-column"])
def test_a_missing_column_is_refused_with_those_that_exist(sorted_file: str, key: str) -> None:
    data = DataConfig(**{key: "text"})
    with pytest.raises(ConfigError, match=rf'data.{key} = "text": not a column of .*prompt, completion, group'):
        load_examples(sorted_file, data)


@pytest.mark.parametrize(("value", "text"), [(2, "2"), (2.5, "2.5"), (True, "true")])
def test_a_column_of_scalars_is_read_as_text(tmp_path: Path, value: object, text: str) -> None:
    row = {"ask": value, "say": value, "choices": [value, value]}
    rows = load_examples(str(write_jsonl(tmp_path / "scalars.jsonl", [row])), MAPPED)
    assert rows.to_list() == [{"ask": text, "say": text, "choices": [text, text]}]


def test_a_column_of_lists_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "lists.jsonl", [{"ask": "the sum", "say": ["2"]}])
    with pytest.raises(ConfigError, match=r'data.completion-column = "say": holds lists .*; text is needed'):
        load_examples(str(path), MAPPED)


def test_a_cell_of_a_csv_is_the_text_that_is_written_there(tmp_path: Path) -> None:
    """pandas would make 7 of 007, 1.0 of 1 beside an empty cell, and nothing of None, NA and null."""
    path = tmp_path / "own.csv"
    path.write_text("ask,say,note\n007,None,1\nNA,null,\n1.50,True,x\n")
    rows = load_examples(str(path), MAPPED)
    assert rows.to_list() == [
        {"ask": "007", "say": "None", "note": "1"},
        {"ask": "NA", "say": "null", "note": None},
        {"ask": "1.50", "say": "True", "note": "x"},
    ]


def test_an_empty_cell_of_a_csv_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("ask,say\nwhich,\n")
    with pytest.raises(ConfigError, match=r'data.completion-column = "say": row 1 of .* has no text there'):
        load_examples(str(path), MAPPED)


def test_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.jsonl.*could not be read"):
        load_examples(str(tmp_path / "absent.jsonl"), DataConfig())


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("ask,say\n")
    with pytest.raises(ConfigError, match="could not be read"):
        private_tokens(MAPPED, TOKENIZER, 0, 1, 1, str(path))


def test_public_examples_are_the_configured_file_the_demos_own_or_none(sorted_file: str) -> None:
    own = evaluation_examples(DataConfig(evaluation=sorted_file), 1)
    assert own is not None
    assert list(own["prompt"]) == [row["prompt"] for row in ROWS]
    assert evaluation_examples(DataConfig(), 1) is not None
    assert evaluation_examples(DataConfig(name=sorted_file), 1) is None


@pytest.mark.parametrize(("task", "split"), [("elicitation", "evaluation"), ("knowledge", "evaluation")])
def test_what_any_split_asks_is_held_out_whichever_is_in_use(task: str, split: str) -> None:
    held_out = held_out_prompts(DataConfig(task=task, split=split), 1)
    for other in splits_of(task):
        assert held_out.issuperset(demo_questions(task, other, 1)["prompt"])


def test_a_files_own_questions_are_held_out(sorted_file: str) -> None:
    data = DataConfig(name=sorted_file, evaluation=sorted_file)
    questions = evaluation_examples(data, 1)
    assert questions is not None
    assert held_out_prompts(data, 1) == set(questions["prompt"])
    assert held_out_prompts(DataConfig(name=sorted_file), 1) == set()


@pytest.mark.parametrize(("task", "split"), [("elicitation", "evaluation"), ("knowledge", "evaluation")])
def test_what_a_run_decides_by_is_neither_trained_on_nor_scored(task: str, split: str) -> None:
    data = DataConfig(task=task, split=split)
    decided = validation_examples(data, 1)
    scored = evaluation_examples(data, 1)
    assert decided is not None
    assert scored is not None
    trained = [row["prompt"] for part in range(4) for row in private_examples(data, part, 4, 1)]
    assert not set(decided["prompt"]) & {*scored["prompt"], *trained}


@pytest.mark.parametrize(
    "changes",
    [{"split": "validation"}, {"task": "knowledge-validation"}, {"name": "own.jsonl"}, {"evaluation": "own.jsonl"}],
)
def test_a_run_without_other_public_rows_has_nothing_else_to_decide_by(changes: dict[str, Any]) -> None:
    assert validation_examples(DataConfig(**changes), 1) is None


def test_only_the_demo_has_a_retention_set(sorted_file: str) -> None:
    assert retention_examples(DataConfig(), 1) is not None
    assert retention_examples(DataConfig(name=sorted_file), 1) is None


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("empty.jsonl", "", "the file is empty"),
        ("broken.jsonl", '{"prompt": "a", "completion": "b"}\n{nonsense', "JSON parse error"),
        ("empty.csv", "", "No columns"),
    ],
)
def test_an_empty_or_broken_file_is_refused_with_the_cause(tmp_path: Path, name: str, text: str, reason: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"{name}.*could not be read.*{reason}"):
        load_examples(str(path), DataConfig())


def rows_file(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"prompt": "c", "completion": ""}, r'data.completion-column = "completion": row 2 of .* has no text'),
        ({"prompt": "c", "completion": None}, r'data.completion-column = "completion": row 2 of .* has no text'),
        ({"prompt": None, "completion": "d"}, r'data.prompt-column = "prompt": row 2 of .* has no text'),
    ],
)
def test_a_row_without_text_is_refused_by_its_number(tmp_path: Path, bad: dict[str, Any], said: str) -> None:
    path = rows_file(tmp_path, [{"prompt": "a", "completion": "b"}, bad])
    with pytest.raises(ConfigError, match=said):
        load_examples(path, DataConfig())


def test_an_answer_that_is_no_choice_is_refused_by_its_row(tmp_path: Path) -> None:
    good = {"prompt": "a", "completion": "b", "choices": ["b", "c"]}
    path = rows_file(tmp_path, [good, good | {"completion": "d"}])
    with pytest.raises(ConfigError, match=r"row 2 has the answer 'd', which is not one of its choices \['b', 'c'\]"):
        evaluation_examples(DataConfig(evaluation=path), 1)


def test_own_held_out_examples_come_without_the_demos_retention(tmp_path: Path) -> None:
    path = rows_file(tmp_path, [{"prompt": "a", "completion": "b"}])
    assert retention_examples(DataConfig(), 1) is not None
    assert retention_examples(DataConfig(evaluation=path), 1) is None


def test_an_end_of_text_follows_each_completion_and_is_learned() -> None:
    tokens = tokenise(TOKENIZER, PROMPTS, ANSWERS, 64, end=True)
    assert [words(row[row != IGNORED]) for row in tokens.labels] == [["5", "</s>"], ["2", "</s>"]]
    assert [words(row[mask == 1])[-1] for row, mask in zip(tokens.input_ids, tokens.attention_mask, strict=True)] == [
        "</s>"
    ] * 2


def test_an_end_that_is_there_already_is_not_doubled() -> None:
    tokens = tokenise(TOKENIZER, PROMPTS[:1], [" 5 </s>"], 64, end=True)
    assert words(tokens.labels[0][tokens.labels[0] != IGNORED]) == ["5", "</s>"]


def test_a_token_that_spans_prompt_and_completion_is_learned() -> None:
    """``an`` + ``swer`` is one word of this tokenizer: the prompt alone ends in an unknown one."""
    tokens = tokenise(TOKENIZER, ["what is the an"], ["swer : 5"], 64)
    assert words(tokens.labels[0][tokens.labels[0] != IGNORED]) == ["answer", ":", "5"]


@pytest.mark.parametrize(("prompt", "completion"), [("what is", "  "), ("", "5")])
def test_an_example_with_nothing_to_learn_is_refused(prompt: str, completion: str) -> None:
    with pytest.raises(ConfigError, match="example 2 has nothing to learn"):
        tokenise(TOKENIZER, ["what", prompt], [" is", completion], 64, special=False)


@pytest.mark.parametrize("length", [2, 3, 7])
def test_however_short_the_limit_a_cut_example_keeps_labels_that_the_model_can_predict(length: int) -> None:
    tokens = tokenise(TOKENIZER, PROMPTS, [" 5 4 3 2", " 1"], length, end=True)
    assert tokens.input_ids.shape[1] == length
    assert (tokens.labels[:, 1:] != IGNORED).any(dim=1).all()
