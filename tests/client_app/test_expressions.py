"""Expressions that a tokenizer may run over private rows, against the steps that a backtracking engine takes."""

from collections.abc import Iterator
from re import _constants as op  # type: ignore[attr-defined]  # the tree of Python's own expressions
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from client_app.expressions import PUBLISHED, is_bounded


@pytest.mark.parametrize("name", PUBLISHED)
def test_those_of_published_models_pass_however_line_ends_are_written(name: str) -> None:
    assert is_bounded(PUBLISHED[name])
    assert is_bounded(PUBLISHED[name].replace(r"\r", "\r").replace(r"\n", "\n"))
    assert not is_bounded(PUBLISHED[name] + "|(a+)+b")


def test_llama_3_s_is_as_its_tokenizer_has_it() -> None:
    assert PUBLISHED["Llama 3"] == (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )


PLAIN = [
    "ab+",
    r" {2,}", r"\s+", r"[\r\n]", r"\s?\p{L}+", r"[0-9][0-9][0-9]", r"[^\n]+|[\n]+", r"\p{N}{1,3}",
    r"[\p{P}\$\+<=>\^~\|`]+", "'s|'t", " ", r"[!-/:-@\[-`{-~]", "[一-龥]+", r"<\|im_start\|>", ".", "a&b",
    "[a&b]",
]  # fmt: skip


@pytest.mark.parametrize("expression", PLAIN)
def test_plain_ones_pass(expression: str) -> None:
    assert is_bounded(expression)


REFUSED = [
    "a{2}b", "a{0,16}a{99,}", "[a]{0,16}a", "a{2,}b", "a?b?", "a" * 17 + "b", "a|" * 40 + "a",
    r"(a+)+b", r"(a|a)*b", r"a*a*b", r"a+b", r"a*b*", r"a?b?c", r"[\s\S]*X", r"(a)", r"(?=.*secret)a", r"(?i)a",
    "a(?i)b|c", r"(?i:[\p{L}])+", r"(a)\1", r"\k<x>", r"\g<1>", "a{1}?", "a{2,1}b", "a{1,99}b", "a{,3}b", "a{1,2}+",
    "a{3}{2}", "a**", "a+?", "a++", "^a", "a$", r"\ba", r"\Xa", r"\Ra", r"\Ka", r"\ka", "(a", "a)", "[]a]", "[^]a]",
    "[a", "[[:alpha:]]+", "[a&&[b]]+", "[a&&b]+", r"[\c]]+", r"[\Qa]", "a|", "|a", "", "a{x}", "(?~a)", "(?#a)",
    "[" + "a" * 70 + "]", "(" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("expression", REFUSED)
def test_no_other_passes(expression: str) -> None:
    assert not is_bounded(expression)


class _Engine:
    """A backtracking engine that counts its steps, over the tree of Python's own parser."""

    MOST = 100_000

    def __init__(self, expression: str, text: str) -> None:
        self._tree, self._text, self.steps = list(parser.parse(expression)), text, 0

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
        elif kind is op.MAX_REPEAT:
            yield from self._loop(given, at, 0)
        else:
            raise AssertionError(kind)

    def _loop(self, given: Any, at: int, done: int) -> Iterator[int]:
        least, most, body = given
        if done < most:
            for end in self._sequence(list(body), at):
                if end > at or done < least:
                    yield from self._loop(given, end, done + 1)
        if done >= least:
            yield at


def _steps(expression: str, text: str) -> int:
    try:
        return _Engine(expression, text).search_all()
    except OverflowError:
        return 100 * _Engine.MOST


_TIMES = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,3}", "{2,}"])
_PART = st.builds(lambda c, r: c + r, st.sampled_from("aab."), _TIMES)
_BRANCH = st.one_of(  # short, since hypothesis gives up where it must look long for one that passes
    st.lists(_PART, min_size=1, max_size=2).map("".join), st.text("aab.", min_size=1, max_size=6)
)


@settings(max_examples=300, deadline=None)
@given(expression=st.lists(_BRANCH, min_size=1, max_size=3).map("|".join), tail=st.sampled_from(["", "c", "b"]))
def test_what_passes_takes_time_in_proportion_to_a_text(expression: str, tail: str) -> None:
    assume(is_bounded(expression))
    short, long = (_steps(expression, "a" * length + tail) for length in (40, 80))
    assert long <= 2.1 * short + 10, f"{short} steps, {long} for twice the text"


@pytest.mark.parametrize("expression", ["(a+)+b", "a*a*b", "a+b", "(a|a)*b", "(aa?)*c"])
def test_the_counting_engine_sees_what_is_refused(expression: str) -> None:
    short, long = (_steps(expression, "a" * length) for length in (40, 80))
    assert long > 3 * short or short > _Engine.MOST
