"""How long a regular expression can take over a text, read off the expression.

A backtracking engine (Oniguruma, which tokenizers use) tries again whatever it could have matched otherwise, once
something behind it fails. Each repetition that is tried again multiplies the time by the text's length, a repeated
group by far more. The syntax read here is Oniguruma's, as far as published tokenizers use it; the rest is refused.
"""

import re
from dataclasses import dataclass

MOST_WAYS = 1000
_FEW = 16  # repetitions up to which a count is a few ways and not a scan of the text
_DEEPEST = 20  # groups in groups
_PLAIN_GROUP = re.compile(r"\((?:\?(?:[ims-]*:|>|<[A-Za-z_]\w*>))?(?!\?)")
_LOOK = re.compile(r"\(\?<?[=!]")
_FLAGS = re.compile(r"\(\?[ims-]+\)")
_ATOM = re.compile(
    r"\\[pP]\{\^?\w+\}|\\x\{[0-9A-Fa-f]+\}|\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\[nrtfvaedDhHsSwW]|\\\W|[^\\]",
    re.DOTALL,
)
_PLACE = re.compile(r"\\[AbBGzZ]|[\^$]")  # matches no character, as a lookaround does
_REPEATED = re.compile(r"([*+?])[+?]?|\{(\d*)(,?)(\d*)\}\??")
_AGAIN = re.compile(r"[*+?]|\{\d*,?\d*\}")


@dataclass(frozen=True)
class _Cost:
    """What is tried again: ``ways`` times the text's length to the power of ``scans``; ``fails``: whether it may."""

    ways: int = 1
    scans: int = 0
    fails: bool = True


class Unbounded(ValueError):
    """An expression that may take more than the square of a text's length, or whose syntax is not read here."""


def check_expression(pattern: str) -> None:
    """Raise ``Unbounded`` unless matching takes at most ``MOST_WAYS`` times the square of a text's length."""
    try:
        found = _Reader(pattern).whole()
    except RecursionError:
        raise Unbounded("groups are nested too deep") from None
    if found.scans > 1 or found.ways > MOST_WAYS:
        raise Unbounded("it may try a text more often than the square of its length")


class _Reader:
    """Reads an expression from its end to its start: what may fail behind a part decides whether it is tried again."""

    def __init__(self, pattern: str) -> None:
        self._text, self._at, self._depth = pattern, 0, 0

    def whole(self) -> _Cost:
        branches = self._branches()
        if self._at < len(self._text):
            raise Unbounded("a group ends that was not begun")
        return _either(branches, followed=False)

    def _branches(self) -> list[list["_Part"]]:
        """The alternatives up to the end of the group, each as its parts."""
        found: list[list[_Part]] = [[]]
        while self._at < len(self._text) and self._text[self._at] != ")":
            if self._text[self._at] == "|":
                self._at += 1
                found.append([])
            elif part := self._part():
                found[-1].append(part)
        return found

    def _part(self) -> "_Part | None":
        if self._take(_FLAGS):
            return None
        if self._take(_LOOK):
            part = _Part(self._inside(), looks=True)
        elif self._take(_PLAIN_GROUP):
            part = _Part(self._inside())
        elif self._take(_PLACE):
            part = _Part(looks=True)
        else:
            self._one()
            part = _Part()
        return self._repeated(part)

    def _inside(self) -> list[list["_Part"]]:
        self._depth += 1
        branches = self._branches()
        if not self._take(re.compile(r"\)")) or self._depth > _DEEPEST:
            raise Unbounded("a group does not end, or is nested too deep")
        self._depth -= 1
        return branches

    def _one(self) -> None:
        """A single character, written or as a class."""
        if self._text[self._at] in "*+?(":
            raise Unbounded(f"{self._text[self._at :][:10]!r} is not read here")
        if self._text[self._at] == "[":
            self._class()
        elif not self._take(_ATOM):
            raise Unbounded(f"{self._text[self._at :][:10]!r} is not read here")

    def _class(self) -> None:
        if re.compile(r"\[\^?\]").match(self._text, self._at):
            raise Unbounded("a class begins with ]")
        depth = 0
        while self._at < len(self._text):
            step = 2 if self._text[self._at] == "\\" else 1
            depth += {"[": 1, "]": -1}.get(self._text[self._at], 0)
            self._at += step
            if not depth:
                return
        raise Unbounded("a class does not end")

    def _repeated(self, part: "_Part") -> "_Part":
        found = self._take(_REPEATED)
        if found is None or found[0] in {"{}", "{,}"}:
            return part
        if _AGAIN.match(self._text, self._at):
            raise Unbounded("a repetition is repeated")
        sign, least, comma, most = found[1], found[2], found[3], found[4]
        if sign:
            return part.times(0 if sign in "*?" else 1, 1 if sign == "?" else None)
        first = int(least or 0)
        return part.times(first, (int(most) if most else None) if comma else first)

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found


@dataclass(frozen=True)
class _Part:
    """A character (no ``branches``) or a group, and how often it is repeated; ``most``: ``None`` without end."""

    branches: list[list["_Part"]] | None = None
    looks: bool = False
    least: int = 1
    most: int | None = 1

    def times(self, least: int, most: int | None) -> "_Part":
        return _Part(self.branches, self.looks, least, most)

    def cost(self, *, followed: bool) -> _Cost:
        """What it costs where something behind it may fail (``followed``) or nothing."""
        inner = _Cost() if self.branches is None else _either(self.branches, followed=followed or self.looks)
        if self.looks and (self.least, self.most) == (1, 1):
            return _Cost(inner.ways, inner.scans)
        if (self.least, self.most) == (1, 1):
            return inner
        counts = _Cost() if self.most is None else _Cost(self.most - self.least + 1)
        if self.most is None or self.most > _FEW:
            counts = _Cost(scans=1)
        many = self.branches is not None and self.most != 1
        if many and (inner.scans or (followed and inner.ways > 1)):
            raise Unbounded("a repeated group may match one text in many ways")
        if not followed:
            return _Cost(inner.ways, inner.scans, self.least > 0 and inner.fails)
        return _Cost(inner.ways * counts.ways, inner.scans + counts.scans, self.least > 0 and inner.fails)


def _either(branches: list[list[_Part]], *, followed: bool) -> _Cost:
    costs = [_in_order(branch, followed=followed) for branch in branches]
    return _Cost(sum(cost.ways for cost in costs), max(cost.scans for cost in costs), all(cost.fails for cost in costs))


def _in_order(parts: list[_Part], *, followed: bool) -> _Cost:
    ways, scans, fails = 1, 0, False
    for part in reversed(parts):
        cost = part.cost(followed=followed or fails)
        ways, scans, fails = ways * cost.ways, scans + cost.scans, fails or cost.fails
    return _Cost(ways, scans, fails)
