"""The layouts of public data sets and how one row of each becomes prompts and completions.

Column names are those of the sets on the Hugging Face hub. A row without an answer (a hidden test label, an empty
output) has nothing to learn from and yields no example. Values come as texts (``files``), in lists and records of them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.data.chats import chat_example
from common.data.example import Example

Row = Mapping[str, Any]
_LETTERS = "ABCD"


@dataclass(frozen=True)
class Format:
    """A layout: the columns that it needs, whether its examples have groups and choices, and what a row yields.

    ``examples`` raises ``ValueError`` for a row that it cannot read. ``aliases``: other names of its columns, each with
    the column that it stands for. ``chat``: examples are conversations, which a chat template writes.
    """

    columns: tuple[str, ...]
    examples: Callable[[Row], Iterator[Example]]
    grouped: bool = False
    multiple_choice: bool = False
    chat: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)

    def renamed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with its columns under the names of the layout; an alias stays where its column is filled too."""
        found = dict(row)
        for alias, column in self.aliases.items():
            if alias in found and found.get(column) is None:
                found[column] = found.pop(alias)
            elif found.get(alias, "") is None:
                del found[alias]
        return found

    def has_columns(self, columns: Collection[str]) -> bool:
        """Whether rows with these columns can be read."""
        return set(self.columns) <= self.renamed(dict.fromkeys(columns)).keys()


_INTRO = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_INTRO_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


def _text(row: Row, column: str) -> str:
    value = row[column]
    if isinstance(value, list | tuple | Mapping):
        raise ValueError(f"{column} holds lists or records; text is needed")
    return "" if value is None else str(value).strip()


def _list(row: Mapping[str, Any], column: str) -> list[Any]:
    value = row[column]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{column} = {value!r}: a list is needed")
    return list(value)


def _dolly(row: Row) -> Iterator[Example]:
    """databricks/databricks-dolly-15k, in the prompt of Databricks' own training code."""
    instruction, context, response = (_text(row, column) for column in ("instruction", "context", "response"))
    if not response:
        return
    given = f"Input:\n{context}\n\n" if context else ""
    yield Example(
        prompt=f"{_INTRO}\n\n### Instruction:\n{instruction}\n\n{given}### Response:",
        completion=f"\n{response}",
        message=_paragraphs(instruction, context),
        group=_text(row, "category"),
    )


def _alpaca(row: Row) -> Iterator[Example]:
    """tatsu-lab/alpaca: prompt and completion together are its column ``text``."""
    instruction, given, output = (_text(row, column) for column in ("instruction", "input", "output"))
    if not output:
        return
    head = f"{_INTRO_WITH_INPUT if given else _INTRO}\n\n### Instruction:\n{instruction}\n\n"
    head += f"### Input:\n{given}\n\n" if given else ""
    yield Example(prompt=f"{head}### Response:", completion=f"\n{output}", message=_paragraphs(instruction, given))


def _mmlu(row: Row) -> Iterator[Example]:
    """cais/mmlu, in the prompt of Hendrycks et al. 2021, which lm-eval uses too."""
    choices = row["choices"]
    if not isinstance(choices, list | tuple) or len(choices) != len(_LETTERS) or None in choices:
        raise ValueError(f"choices = {choices!r}: a list of {len(_LETTERS)} texts is needed")
    subject = _text(row, "subject").replace("_", " ")
    about = f" about {subject}" if subject else ""
    head = f"The following are multiple choice questions (with answers){about}.\n\n"
    group = _text(row, "subject") or "auxiliary"
    yield from _choice(head, _text(row, "question"), [str(c) for c in choices], "Answer:", row["answer"], group)


def _ceval(row: Row) -> Iterator[Example]:
    """ceval/ceval-exam, in lm-eval's prompt without the subject's Chinese name, which no column holds."""
    head = "以下是中国考试的单项选择题，请选出其中的正确答案。\n\n"
    group = str(row.get("subject") or row.get("subset") or "all")
    options = [_text(row, letter) for letter in _LETTERS]
    yield from _choice(head, _text(row, "question"), options, "答案：", row["answer"], group)


def _choice(
    head: str, question: str, options: list[str], ask: str, answer: float | str | None, group: str
) -> Iterator[Example]:
    if answer is None or str(answer) in {"", "-1", "-1.0", "nan"}:  # nan: a gap in a column of numbers
        return
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=True))
    prompt = f"{head}{question}\n{listed}\n{ask}"
    choices = tuple(f" {letter}" for letter in _LETTERS)
    yield Example(prompt, choices[_place(answer)], message=prompt, group=group, choices=choices)


def _place(answer: float | str) -> int:
    """Number of the right choice, which sets give as 0 to 3 (1.0 where a column has gaps) or as a letter."""
    text = str(answer).strip().upper().removesuffix(".0")
    place = int(text) if text.isdecimal() else _LETTERS.find(text)
    if len(text) != 1 or not 0 <= place < len(_LETTERS):
        raise ValueError(f"answer = {answer!r}: 0 to 3 or A to D is needed")
    return place


def _e2e(row: Row) -> Iterator[Example]:
    """E2E NLG (tuetschek/e2e_nlg)."""
    yield from _verbalize(_text(row, "meaning_representation"), [_text(row, "human_reference")])


def _dart(row: Row) -> Iterator[Example]:
    """DART: one example for every text of a row; annotations come as a list of records or as a record of lists."""
    if not row["tripleset"] or not row["annotations"]:
        return
    triples = " | ".join(" : ".join(map(str, _list({"triple": part}, "triple"))) for part in _list(row, "tripleset"))
    notes = row["annotations"]
    if isinstance(notes, Mapping):
        texts, sources = _list(notes, "text"), _list(notes, "source")
    else:
        listed = _list(row, "annotations")
        texts, sources = [note["text"] for note in listed], [note["source"] for note in listed]
    for text, source in zip(texts, sources, strict=True):
        yield from _verbalize(triples, [str(text or "").strip()], group=str(source))


def _verbalize(given: str, texts: list[str], group: str = "") -> Iterator[Example]:
    task = "Put the data into words."
    for text in filter(None, texts):
        yield Example(f"{task}\n\nData: {given}\nText:", f" {text}", message=f"{task}\n\n{given}", group=group)


def _dialogsum(row: Row) -> Iterator[Example]:
    """knkarthick/dialogsum."""
    task, dialogue, summary = "Summarise the dialogue.", _text(row, "dialogue"), _text(row, "summary")
    if summary:
        yield Example(f"{task}\n\n{dialogue}\n\nSummary:", f" {summary}", message=f"{task}\n\n{dialogue}")


def _plain_text(row: Row) -> Iterator[Example]:
    """A text that is learned from its first token on."""
    if text := _text(row, "text"):
        yield Example("", text, message="")


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


FORMATS: dict[str, Format] = {
    "dolly": Format(("instruction", "context", "response", "category"), _dolly, grouped=True),
    "mmlu": Format(("question", "subject", "choices", "answer"), _mmlu, grouped=True, multiple_choice=True),
    "ceval": Format(("question", "A", "B", "C", "D", "answer"), _ceval, grouped=True, multiple_choice=True),
    "alpaca": Format(("instruction", "input", "output"), _alpaca),
    "e2e": Format(("meaning_representation", "human_reference"), _e2e),
    "dart": Format(("tripleset", "annotations"), _dart, grouped=True),
    "dialogsum": Format(("dialogue", "summary"), _dialogsum),
    "chat": Format(
        ("messages",), chat_example, chat=True, aliases={"conversations": "messages", "conversation": "messages"}
    ),
    "text": Format(("text",), _plain_text),
}
