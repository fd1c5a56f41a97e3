"""Words of generated texts and references, for BLEU and ROUGE, in any script.

The packages' defaults are made for English: rouge-score drops every letter that is not a-z, so identical Russian texts
score 0; sacrebleu's 13a splits at spaces, which Chinese has not.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

ROUGE_WORDS = "letters, marks and digits of any script, each emoji; a-z stemmed (Porter); without spaces each character"
"""What ``Words`` does, for reports; on ASCII texts it is rouge-score's default with its stemmer."""
_NO_SPACES = 0.1  # share of letters from which on a corpus counts as written without spaces
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_OTHERS = r"\u3040-\u30ff\u31f0-\u31ff\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # kana, Thai to Khmer
_SPACELESS = re.compile(f"[{_HAN}{_OTHERS}]")
_FIRST_EMOJI = "\u2600"  # signs before it (degree, copyright) are no words
_CHINESE = re.compile(f"[{_HAN}]")


def bleu_tokenizer(references: Iterable[Sequence[str]]) -> str:
    """The sacrebleu tokenizer for a corpus: 13a, zh for Chinese, char for other scripts without spaces (kana, Thai).

    The references decide, so that every model's texts are scored alike.
    """
    letters = spaceless = chinese = 0
    for given in references:
        for text in given:
            letters += sum(map(str.isalpha, text))
            spaceless += len(_SPACELESS.findall(text))
            chinese += len(_CHINESE.findall(text))
    if spaceless <= _NO_SPACES * letters:
        return "13a"
    return "zh" if spaceless - chinese <= _NO_SPACES * chinese else "char"


class Words:
    """A tokenizer for rouge-score: see ``ROUGE_WORDS``."""

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer  # noqa: PLC0415 - an optional extra

        self._english = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """The words of a text, in lower case."""
        spaced: list[str] = []
        after_symbol = False
        for letter in unicodedata.normalize("NFC", text.lower()):
            category = unicodedata.category(letter)
            kind, symbol = category[0], category == "So" and letter >= _FIRST_EMOJI
            if kind not in "LMN" and not symbol:
                spaced.append(" ")
            elif kind != "M" and (symbol or after_symbol or _SPACELESS.match(letter)):
                spaced.append(f" {letter}")
            else:
                spaced.append(letter)
            after_symbol = symbol or (after_symbol and kind == "M")
        return [self._stemmed(word) for word in _apart("".join(spaced)).split()]

    def _stemmed(self, word: str) -> str:
        return str(self._english.tokenize(word)[0]) if word.isascii() else word


def _apart(text: str) -> str:
    """A space where a script without spaces gives way to another one."""
    return re.sub(f"([{_HAN}{_OTHERS}])(?=[^{_HAN}{_OTHERS}\\s])", r"\1 ", text)
