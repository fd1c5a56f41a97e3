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
    return _as_text(row[column], column).strip()


def _needed(row: Row, column: str) -> str:
    """What is asked; a question without it would be learned and scored like any other."""
    if not (found := _text(row, column)):
        raise ValueError(f"{column} has no text; fill it or drop the row")
    return found


def _as_text(value: object, where: str) -> str:
    """Texts and numbers are what they are, a null is ``""``; of anything else a model would read Python's spelling."""
    if isinstance(value, list | tuple | Mapping):
        raise ValueError(f"{where} holds lists or records; text is needed")
    return "" if value is None else str(value)


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
    _needed(row, "instruction")
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
    if not (instruction or given):
        raise ValueError("instruction and input have no text; fill one or drop the row")
    head = f"{_INTRO_WITH_INPUT if given else _INTRO}\n\n### Instruction:\n{instruction}\n\n"
    head += f"### Input:\n{given}\n\n" if given else ""
    yield Example(prompt=f"{head}### Response:", completion=f"\n{output}", message=_paragraphs(instruction, given))


def _mmlu(row: Row) -> Iterator[Example]:
    """cais/mmlu, in the prompt of Hendrycks et al. 2021, which lm-eval uses too."""
    if _is_hidden(row["answer"]):
        return
    choices = row["choices"]
    if not isinstance(choices, list | tuple) or len(choices) != len(_LETTERS) or None in choices:
        raise ValueError(f"choices = {choices!r}: a list of {len(_LETTERS)} texts is needed")
    options = [_as_text(choice, "choices") for choice in choices]
    subject = _text(row, "subject").replace("_", " ")
    about = f" about {subject}" if subject else ""
    head = f"The following are multiple choice questions (with answers){about}.\n\n"
    group = _text(row, "subject") or "auxiliary"
    yield from _choice(head, _needed(row, "question"), options, "Answer:", row["answer"], group)


def _ceval(row: Row) -> Iterator[Example]:
    """ceval/ceval-exam, in lm-eval's prompt without the subject's Chinese name, which no column holds."""
    if _is_hidden(row["answer"]):
        return
    head = "以下是中国考试的单项选择题，请选出其中的正确答案。\n\n"
    group = _as_text(row.get("subject") or row.get("subset") or "all", "subject")
    options = [_text(row, letter) for letter in _LETTERS]
    if missing := [letter for letter in _LETTERS if row[letter] is None]:
        raise ValueError(f"{missing[0]} has no text; fill it or drop the row")
    yield from _choice(head, _needed(row, "question"), options, "答案：", row["answer"], group)


def _is_hidden(answer: object) -> bool:
    return answer is None or str(answer) in {"", "-1", "-1.0", "nan"}  # nan: a gap in a column of numbers


def _choice(
    head: str, question: str, options: list[str], ask: str, answer: float | str, group: str
) -> Iterator[Example]:
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
    if text := _text(row, "human_reference"):
        yield from _verbalize(_needed(row, "meaning_representation"), [text])


def _dart(row: Row) -> Iterator[Example]:
    """DART: one example for every text of a row; annotations come as a list of records or as a record of lists."""
    if not row["tripleset"] or not row["annotations"]:
        return
    triples = " | ".join(" : ".join(_triple(part)) for part in _list(row, "tripleset"))
    for text, source in _annotations(row):
        yield from _verbalize(triples, [_as_text(text, "text").strip()], group=_as_text(source, "source"))


def _triple(part: object) -> list[str]:
    if not isinstance(part, list | tuple) or len(part) != 3 or None in part:
        raise ValueError(f"triple = {part!r}: a list of three texts is needed")
    return [_as_text(value, "a triple") for value in part]


def _annotations(row: Row) -> Iterator[tuple[object, object]]:
    notes = row["annotations"]
    if not isinstance(notes, Mapping):
        for note in _list(row, "annotations"):
            if not isinstance(note, Mapping):
                raise ValueError(f"annotations hold {note!r}: records with text and source are needed")
            yield note["text"], note["source"]
        return
    texts, sources = _list(notes, "text"), _list(notes, "source")
    if len(texts) != len(sources):
        raise ValueError(f"annotations: {len(texts)} in text and {len(sources)} in source; one for each is needed")
    yield from zip(texts, sources, strict=True)


def _verbalize(given: str, texts: list[str], group: str = "") -> Iterator[Example]:
    task = "Put the data into words."
    for text in filter(None, texts):
        yield Example(f"{task}\n\nData: {given}\nText:", f" {text}", message=f"{task}\n\n{given}", group=group)


def _dialogsum(row: Row) -> Iterator[Example]:
    """knkarthick/dialogsum."""
    task = "Summarise the dialogue."
    if summary := _text(row, "summary"):
        dialogue = _needed(row, "dialogue")
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
