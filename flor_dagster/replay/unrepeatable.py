"""May an answer hang on a value of the clock or of `hash()` that an object keeps? Such a value is the replay's, not the run's."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flor_dagster.parsing import parse_python

# What reads no attribute of what it is given, of the program's own classes.
_PLAIN = frozenset(
    {"abs", "bool", "complex", "float", "int", "len", "max", "min", "pow", "range", "round", "sum", "str", "tuple", "list", "sorted"}
)  # fmt: skip
_STEP = re.compile(r"\.([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Unrepeatable:
    """One place of a compared state that holds what no replay can give again.

    Args:
        path: the way to it, such as `net.made_of`.
        kind: what it is a value of: `the clock`, `hash()`, `an address`.
    """

    path: str
    kind: str

    @property
    def sentence(self) -> str:
        """In words."""
        return f"{self.path} (a value of {self.kind})"

    @property
    def name(self) -> str:
        """The attribute, or the name, that it stands in."""
        steps = _STEP.findall(self.path)
        return steps[-1] if steps else re.split(r"[.\[]", self.path, maxsplit=1)[0]


def reads_of(
    expression: str, places: Sequence[Unrepeatable], sources: Mapping[str, str]
) -> list[Unrepeatable]:
    """The places that an expression may read.

    It does where it names the attribute, or where it calls code that may: of the program's own, where that reads an attribute of
    the name anywhere, and of a library's object that has a clock value in it.

    Args:
        expression: what is logged.
        places: what no replay can give again.
        sources: the texts of the version's files that the run loaded.
    """
    tree = ast.parse(expression, mode="eval")
    named = _read_names(tree)
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in _PLAIN)
    ]
    # What is called, and what it is given: a call may look at everything that lies behind either.
    reached = {
        ast.unparse(part)
        for call in calls
        for part in (call.func, *call.args, *(k.value for k in call.keywords))
    }
    reached |= {name.rpartition(".")[0] for name in reached if "." in name}
    elsewhere = (
        frozenset[str]().union(*(_names_in(text) for text in sources.values()))
        if calls and places
        else frozenset[str]()
    )
    return [
        place
        for place in places
        if place.name in named
        or (calls and place.name in elsewhere)
        or (place.kind == "the clock" and any(_lies_behind(place.path, one) for one in reached))
    ]


def _lies_behind(path: str, reached: str) -> bool:
    return path == reached or path.startswith((f"{reached}.", f"{reached}["))


def _names_in(text: str) -> frozenset[str]:
    try:
        return _read_names(parse_python(text))
    except (SyntaxError, ValueError):
        return frozenset()


def _read_names(tree: ast.AST) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found.add(node.value)  # `getattr`, a key
    return frozenset(found)
