"""Expressions that a tokenizer may run over private rows, against the steps that a backtracking engine takes."""

import re
from collections.abc import Callable, Iterator
from re import _constants as op  # type: ignore[attr-defined]  # the tree of Python's own expressions
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client_app.expressions import Unbounded, check_expression

_SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_OTHER = r"[^\r\n\p{L}\p{N}]?"
PUBLISHED = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Llama 3": rf"{_SHORT}|{_OTHER}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "GPT-4o": rf"{_OTHER}{_UPPER}*{_LOWER}+{_SHORT}?|{_OTHER}{_UPPER}+{_LOWER}*{_SHORT}?|\p{{N}}{{1,3}}|{_SPACES}",
    "Kimi": r"[\p{Han}]+|[^\r\n\p{L}]?[\p{Lu}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{M}&&[^\p{Han}]]+(?i:'s|'t)?|\s+",
    "DeepSeek": rf"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{{|}}~][A-Za-z]+|{_OTHER}[\p{{L}}\p{{M}}]+|{_SPACES}",
    "Bailing": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)",
    "EXAONE": rf"{_SHORT}|{_OTHER}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|{_SPACES}",
    "BLOOM": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "SuperBPE": r"(?=(\d{3})+(?!\d))",
    "Aya": r"\d{1,3}(?=(?:\d{3})*\b)",
    "CLIP": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "T5": r" {2,}",
    "Falcon": r"[0-9][0-9][0-9]",
    "Gemma 4": r"[^\n]+|[\n]+",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_those_of_published_models_pass(name: str) -> None:
    check_expression(PUBLISHED[name])


UNBOUNDED = [
    r"(a+)+b", r"(a|a)*b", r"(a|b)*c", r"a*a*b", r"[\s\S]*[\s\S]*X", r"(a?){30}a{30}", r"(?=[\s\S]*Z)a*b",
    r"a*(?=a*b)c", "a?" * 12 + "b", r"(x+x+)+y", r"((a{1,3}){1,3}){1,20}b", r"(?:a*b?)*c", r"(?<=(a*)*)b", r"(a*?)*?b",
    r"a{0,300}a{,300}b", r"x*(?:y*z)*w", r"(a+|b)+?c", r"(?>(a+)+b)", r"(?<n>a+)+b", r"(?:a+X)*", r"(?i)(a+)+b",
]  # fmt: skip
UNREAD = [
    r"(a)\1", r"(?<x>a)\k<x>", r"\g<1>", r"a{1,3}+b", r"a**", r"a+*", r"a{2}{3}", r"\X+b", r"\Ra", r"(a", r"a)",
    r"[]a]", r"[^]a]", r"[a", r"(?x) a", r"(?~a)", r"(?(1)a|b)", r"(?#a)", r"a\p", "*a", "(" * 30 + ")" * 30,
    "(" * 5000, r"a|*", r"\Ka",
]  # fmt: skip


@pytest.mark.parametrize("pattern", [*UNBOUNDED, *UNREAD])
def test_what_may_try_again_and_again_or_is_not_read_is_refused(pattern: str) -> None:
    with pytest.raises(Unbounded):
        check_expression(pattern)


class _Engine:
    """A backtracking engine that counts its steps, over the tree of Python's own parser."""

    MOST = 100_000

    def __init__(self, pattern: str, text: str) -> None:
        self._tree, self._text, self.steps = list(parser.parse(pattern)), text, 0

    def search_all(self) -> int:
        """Steps of looking for the expression from every place on, behind each match anew."""
        at = 0
        while at <= len(self._text):
            end = next(self._sequence(self._tree, at), None)
            at = at + 1 if end is None or end == at else end
        return self.steps

    def _sequence(self, items: list[Any], at: int) -> Iterator[int]:
        if not items:
            yield at
            return
        for end in self._item(*items[0], at):
            yield from self._sequence(items[1:], end)

    def _item(self, kind: Any, given: Any, at: int) -> Iterator[int]:
        self.steps += 1
        if self.steps > self.MOST:
            raise OverflowError
        if kind in (op.LITERAL, op.NOT_LITERAL, op.ANY):
            if at < len(self._text) and (kind is op.ANY or (ord(self._text[at]) == given) == (kind is op.LITERAL)):
                yield at + 1
        elif kind is op.IN:
            if at < len(self._text) and (op.LITERAL, ord(self._text[at])) in given:
                yield at + 1
        elif kind is op.SUBPATTERN:
            yield from self._sequence(list(given[3]), at)
        elif kind is op.BRANCH:
            for branch in given[1]:
                yield from self._sequence(list(branch), at)
        elif kind in (op.ASSERT, op.ASSERT_NOT):
            found = next(self._sequence(list(given[1]), at), None)
            if (found is None) == (kind is op.ASSERT_NOT):
                yield at
        elif kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            yield from self._loop(given, at, 0, greedy=kind is op.MAX_REPEAT)
        else:
            raise AssertionError(kind)

    def _loop(self, given: Any, at: int, done: int, *, greedy: bool) -> Iterator[int]:
        least, most, body = given
        if done >= least and not greedy:
            yield at
        if done < most:
            for end in self._sequence(list(body), at):
                if end > at or done < least:
                    yield from self._loop(given, end, done + 1, greedy=greedy)
        if done >= least and greedy:
            yield at


def _steps(pattern: str, text: str) -> int:
    try:
        return _Engine(pattern, text).search_all()
    except OverflowError:
        return 100 * _Engine.MOST


_REPEATED = st.sampled_from(["", "", "*", "+", "?", "*?", "+?", "{2}", "{1,3}", "{,2}"])


def _wrapped(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    wrap: list[Callable[[str], str]] = [f"({{}}){r}".format for r in ("", "*", "+", "?", "{{1,2}}", "+?")]
    wrap += ["(?={})".format, "(?!{})".format, "{}|b".format]
    return st.one_of(
        st.builds(lambda how, text: how(text), st.sampled_from(wrap), inner),
        st.builds(lambda a, b: a + b, inner, inner),
    )


PATTERNS = st.recursive(st.builds(lambda c, r: c + r, st.sampled_from("aab."), _REPEATED), _wrapped, max_leaves=5)


@settings(max_examples=400, deadline=None)
@given(pattern=PATTERNS, tail=st.sampled_from(["", "c", "b"]))
@example(pattern="(a*)*", tail="c")
@example(pattern="a*a+", tail="c")
@example(pattern="(aa)+(?!a)", tail="c")
def test_what_passes_takes_no_more_than_the_square_of_a_text(pattern: str, tail: str) -> None:
    try:
        check_expression(pattern)
        re.compile(pattern)
    except (Unbounded, re.error):
        return
    short, long = (_steps(pattern, "a" * length + tail) for length in (30, 60))
    assert long <= 5 * short, f"{short} steps, {long} for twice the text"


@pytest.mark.parametrize("pattern", ["(a+)+b", "a*a*b", "a*(?=a*b)c", "(a|a)*b", "(aa?)*c"])
def test_the_counting_engine_sees_what_is_refused(pattern: str) -> None:
    short, long = (_steps(pattern, "a" * length) for length in (30, 60))
    assert long > 5 * short or short > _Engine.MOST
