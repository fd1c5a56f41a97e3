"""What a key may be, in words, read off the types of the sections."""

from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

_KINDS = {int: "integer", float: "number", str: "text", bool: "true or false"}


def describe_allowed(field: FieldInfo) -> str:
    """The allowed values of a field: its choices, or its kind with the range."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(str(choice) for choice in get_args(field.annotation))
    kind = _KINDS[field.annotation] if field.annotation in _KINDS else str(field.annotation)
    limits = [text for limit in field.metadata for text in _limit(limit)]
    return f"{kind} {' and '.join(limits)}" if limits else kind


def _limit(limit: object) -> list[str]:
    """The bounds that a piece of pydantic's metadata sets, in words; most pieces set none."""
    if getattr(limit, "min_length", None):
        return ["that is not empty"]
    found = [(sign, getattr(limit, name, None)) for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))]
    return [
        f"{sign} {value:,}" if isinstance(value, int) else f"{sign} {value:g}"
        for sign, value in found
        if value is not None
    ]
