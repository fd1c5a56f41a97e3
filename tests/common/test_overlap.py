"""Public means public: what clients hold is not what a run publishes the losses of."""

import logging
from pathlib import Path
from typing import Any

import pytest

from common.config import ConfigError, DataConfig
from common.data import check_evaluation_is_public
from common.demo.tasks import evaluation_examples, training_examples
from tests.support.example_rows import RECORDS, records
from tests.support.tiny import write_jsonl

HELD = [{"prompt": f"Who is {name}?", "completion": f" {name}."} for name in ("Ada", "Bea", "Cleo")]
OTHER = [{"prompt": "Who is Dora?", "completion": " Dora."}, {"prompt": "Who is Ada?", "completion": " Bea."}]


def check(folder: Path, public: list[dict[str, Any]], **changes: Any) -> None:
    own, held_out = write_jsonl(folder / "own.jsonl", HELD), write_jsonl(folder / "public.jsonl", public)
    check_evaluation_is_public(DataConfig(**{"name": str(own), "evaluation": str(held_out), **changes}), 2, 1)


@pytest.mark.parametrize(
    "copy",
    [HELD[1], {"prompt": "  who is\tBEA? ", "completion": "bea.\n"}, HELD[1] | {"choices": [" Bea.", " Ada."]}],
    ids=["letter for letter", "space and case", "as a choice"],
)
def test_an_example_that_a_client_holds_is_refused_with_count_and_number(tmp_path: Path, copy: dict[str, Any]) -> None:
    public = [*OTHER, copy, copy]
    if "choices" in copy:
        public = [row | {"choices": [row["completion"], " no"]} for row in OTHER] + [copy, copy]
    with pytest.raises(
        ConfigError, match=r'^data.evaluation = ".*public.jsonl": 2 of its 4 .* the first is number 3\.'
    ):
        check(tmp_path, public)


ALIKE: dict[str, dict[str, str]] = {
    "decomposed": {"prompt": "Who is Zoe\u0308 Mu\u0308ller?", "completion": " A nurse."},
    "full width": {"prompt": "\uff37\uff48o is Zo\u00eb M\u00fcller\uff1f", "completion": " A nurse\uff0e"},
    "no-break space": {"prompt": "Who\u00a0is Zo\u00eb M\u00fcller?", "completion": "\u00a0A nurse."},
    "not seen": {"prompt": "\ufeffWho is \u200bZo\u00eb M\u00fcl\u00adler?", "completion": " A nurse.\u200b"},
    "ligature, case": {"prompt": "WHO IS ZO\u00cb M\u00dcLLER?", "completion": " a NUR\u017fE."},
    "other white space": {"prompt": "Who  is Zo\u00ebM\u00fcl ler ?", "completion": "Anurse."},
    "controls": {"prompt": "Who\x00 is Zo\u00eb\x7f M\u00fcller?", "completion": " A nurse.\x08"},
    "selectors": {"prompt": "Who\ufe0f is Zo\u00eb\u180b M\u00fcller?", "completion": " A nurse.\U000e0101"},
    "fillers": {"prompt": "Who\u3164 is Zoe\u034f\u0308 M\u115f\u00fcller?", "completion": " A\u17b4\u2800 nurse."},
    "cut in a word": {"prompt": "Who is Zo\u00eb M\u00fcller? A nu", "completion": "rse."},
    "cut elsewhere": {"prompt": "Who is Zo\u00eb M\u00fcller? A", "completion": " nurse."},
}


@pytest.mark.parametrize("copy", ALIKE.values(), ids=ALIKE)
def test_a_clients_example_in_another_spelling_of_unicode_is_refused(tmp_path: Path, copy: dict[str, str]) -> None:
    own = write_jsonl(tmp_path / "one.jsonl", [{"prompt": "Who is Zo\u00eb M\u00fcller?", "completion": " A nurse."}])
    with pytest.raises(ConfigError, match="1 of its 3 examples"):
        check(tmp_path, [*OTHER, copy], name=str(own))


def test_the_same_prompt_with_another_answer_and_no_file_at_all_pass(tmp_path: Path) -> None:
    check(tmp_path, OTHER)
    check(tmp_path, HELD, evaluation="")


def test_the_split_that_clients_train_on_is_no_public_one(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", HELD)
    data = DataConfig(
        name=str(tmp_path), evaluation=str(tmp_path), evaluation_split="train[1:]", train_split="train[:2]"
    )
    with pytest.raises(ConfigError, match="1 of its 2 examples"):
        check_evaluation_is_public(data, 2, 1)
    check_evaluation_is_public(data.model_copy(update={"evaluation_split": "train[2:]"}), 2, 1)


def test_examples_of_a_named_format_are_compared_as_they_are_learned(tmp_path: Path) -> None:
    first, second, _ = records("mmlu")
    for answer, refused in ((first["answer"], True), ((first["answer"] + 1) % 4, False)):
        public = str(
            write_jsonl(tmp_path / "public.jsonl", [second | {"question": "Another?"}, first | {"answer": answer}])
        )
        data = DataConfig(name=str(RECORDS / "mmlu.jsonl"), evaluation=public, format="mmlu")
        if refused:
            with pytest.raises(ConfigError, match="1 of its 2 examples"):
                check_evaluation_is_public(data, 2, 1)
        else:
            check_evaluation_is_public(data, 2, 1)


def test_a_file_of_the_demos_training_facts_is_refused_and_one_of_its_held_out_facts_is_not(tmp_path: Path) -> None:
    trained = training_examples("elicitation", 40, 1).to_list()
    held_out = evaluation_examples("elicitation", "evaluation", 1).to_list()
    with pytest.raises(ConfigError, match="40 of its 40 examples"):
        check(tmp_path, trained, name="demo", examples_per_client=20)
    check(tmp_path, held_out, name="demo", examples_per_client=20)


def test_rows_that_are_not_here_are_not_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A deployment's server: its sites have files of their own, or a data set that the server cannot reach."""
    check(tmp_path, HELD, name=str(tmp_path / "at-the-sites.jsonl"))
    assert not caplog.messages
    (tmp_path / "broken.jsonl").write_text("{")
    with caplog.at_level(logging.WARNING):
        check(tmp_path, HELD, name=str(tmp_path / "broken.jsonl"))
    assert "the held-out rows could not be compared with data.name" in caplog.text
