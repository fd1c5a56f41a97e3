"""Which regular expressions of a tokenizer may run over private rows.

A backtracking engine (Oniguruma, which tokenizers use) may try one text again and again, and how it reads an expression
has many a corner. So what passes is what published models have, word for word, and what is so plain and short that it
takes some dozen steps a character: alternatives of a few characters and classes, or of one that is repeated, which an
optional one may precede. Nothing behind a repetition can fail.
"""

import re
from typing import Final

_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_MARKS = r" ?[^\s\p{L}\p{N}]+"
PUBLISHED: Final = {
    "GPT-2": rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+|{_MARKS}|\s+(?!\S)|\s+",
    "GPT-2, spaces as they come": rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+|{_MARKS}|\s+(?!\S)",
    "GPT-4": rf"'(?i:[sdmt]|ll|ve|re)|{_BEFORE}+\p{{L}}+|\p{{N}}{{1,3}}|{_MARKS}+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "Ling": rf"'(?i:[sdmt]|ll|ve|re)|{_BEFORE}+\p{{L}}+|\p{{N}}|{_MARKS}+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "Llama 3": rf"{_SHORT}|{_BEFORE}\p{{L}}+|\p{{N}}{{1,3}}|{_MARKS}[\r\n]*|{_SPACES}",
    "Qwen 2": rf"{_SHORT}|{_BEFORE}\p{{L}}+|\p{{N}}|{_MARKS}[\r\n]*|{_SPACES}",
    "Qwen 3.5": rf"{_SHORT}|{_BEFORE}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "MiniCPM 5": rf"{_SHORT}|{_BEFORE}\p{{L}}+|\p{{N}}+|{_MARKS}[\r\n]*|{_SPACES}",
    "Seed-Coder": rf"{_SHORT}|{_BEFORE}\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",
    "GPT-4o": rf"{_BEFORE}{_UPPER}*{_LOWER}+{_SHORT}?|{_BEFORE}{_UPPER}+{_LOWER}*{_SHORT}?|"
    rf"\p{{N}}{{1,3}}|{_MARKS}[\r\n/]*|{_SPACES}",
    "Tekken": rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}|{_MARKS}[\r\n/]*|{_SPACES}",
    "DeepSeek V3": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    rf" ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
    "EXAONE": rf"{_SHORT}|{_BEFORE}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}|{_MARKS}[\r\n/]?|\s*[\r\n]|"
    r"\s+(?!\S)|\s+",
    "BLOOM": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "Aya": r"\d{1,3}(?=(?:\d{3})*\b)",
    "SuperBPE": r"(?=(\d{3})+(?!\d))",
    "CLIP": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
}
"""By a model that has it; line ends as they are written here."""

_LONGEST, _MOST_ALIKE, _MOST_TIMES = 64, 16, 16  # characters; of them in a row; repetitions that are counted
_ESCAPE = r"\\(?:[pP]\{\^?\w+\}|[nrtfvdDsSwW]|[^\w\s])"
_INSIDE = rf"(?:[^\[\]\\&]|&(?!&)|{_ESCAPE})"
_ONE = rf"(?:{_ESCAPE}|\[\^?{_INSIDE}+\]|[^\\\[\]()|{{}}?*+^$])"
_PLAIN = re.compile(
    rf"{_ONE}\??{_ONE}[*+]?|{_ONE}[*+?]?|{_ONE}{{1,{_MOST_ALIKE}}}|{_ONE}\{{(\d{{1,2}})(?:,(\d{{1,2}})?)?\}}"
)
_BRANCH_ENDS = re.compile(rf"(?:{_ESCAPE}|\[\^?{_INSIDE}+\]|[^\\\[|])*")


def is_bounded(expression: str) -> bool:
    """Whether an expression may run over private rows: it is a published one, or a plain one."""
    written = expression.replace("\r", r"\r").replace("\n", r"\n")
    return written in PUBLISHED.values() or (len(written) <= _LONGEST and all(map(_is_plain, _branches(written))))


def _branches(written: str) -> list[str]:
    """The alternatives; one that cannot be read is what is left, which is none that is plain."""
    found, at = [], 0
    while True:
        branch = _BRANCH_ENDS.match(written, at)
        end = branch.end() if branch else at
        found.append(written[at:end])
        if end == len(written):
            return found
        if written[end] != "|":
            return [*found, "("]
        at = end + 1


def _is_plain(branch: str) -> bool:
    found = _PLAIN.fullmatch(branch)
    if found is None:
        return False
    counts = [int(number) for number in found.groups() if number is not None]
    return counts == sorted(counts) and all(count <= _MOST_TIMES for count in counts)
