"""Names that a call computes: `flor.log(f"norm/{layer}", …)` logs many, and only a run knows which.

Such a statement is known by its pattern, `norm/{}`: what is written stands, and a hole for what is computed.
"""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Sequence

HOLE = "{}"
SHOWN = 5
_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0-9 +*.]*[a-zA-Z]")


def pattern_of(name: ast.expr) -> str | None:
    """The name that an expression gives, with holes where it is computed; None where it is another literal than a text."""
    if isinstance(name, ast.Constant) and not isinstance(name.value, str):
        return None
    found = _pattern(name)
    while HOLE + HOLE in found:
        found = found.replace(HOLE + HOLE, HOLE)
    return found


def _pattern(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(map(_pattern, values))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _pattern(left) + _pattern(right)
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mod()):
            return "%".join(_PERCENT.sub(HOLE, part) for part in text.split("%%"))
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
            return _formatted(text)
        case _:
            return HOLE


def _formatted(text: str) -> str:
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError:
        return HOLE
    return "".join(before + (HOLE if field is not None else "") for before, field, _, _ in parts)


def is_computed(name: str) -> bool:
    """Whether a statement's name has holes."""
    return HOLE in name


def fits(pattern: str, name: str) -> bool:
    """Whether a statement of a pattern may log a name; a pattern without holes logs itself alone."""
    if not is_computed(pattern):
        return pattern == name
    between = ".*".join(map(re.escape, pattern.split(HOLE)))
    return re.fullmatch(between, name, re.DOTALL) is not None


def as_pattern(asked: str) -> str:
    """What somebody asks for by a glob (`norm/*`) as a pattern."""
    return re.sub(r"\*+", HOLE, asked)


def told(pattern: str) -> int:
    """How many characters of a pattern are certain: of two that fit, the one that says more is meant."""
    return len(pattern.replace(HOLE, ""))


def of_names(pattern: str, logged: Sequence[str]) -> str:
    """Which names the values of a statement have, in words; empty where it has but one."""
    if not is_computed(pattern) or not logged:
        return ""
    more = len(logged) - SHOWN
    names = ", ".join(logged[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f" of {len(logged)} name{'s' * (len(logged) != 1)} ({names})"
