"""Which environment variables do the sources of a script name? What `flor doctor` tells before anything is recorded."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flor_dagster.parsing import parse_python
from flor_dagster.recording.masking import secret_name
from flor_dagster.recording.variables import is_machine, is_numeric

_CALLS = frozenset({"getenv", "get", "pop", "setdefault", "__getitem__"})
_KEYWORDS = frozenset({"envvar", "env_var", "auto_env_var_prefix", "env_prefix"})
_HYDRA = re.compile(r"\$\{oc\.env:([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Mention:
    """A variable that a source names where it reads it.

    Attributes:
        name: The variable.
        file: The source, relative to the repository.
        line: Where.
        sentence: What is kept of it, in words.
    """

    name: str
    file: str
    line: int
    sentence: str


def variables_named(sources: Mapping[str, str]) -> tuple[Mention, ...]:
    """The variables that sources read by a name that stands there, once each, in the order of their names.

    Args:
        sources: file → text; what is no Python is passed over.
    """
    found: dict[str, Mention] = {}
    for file in sorted(sources):
        try:
            tree = parse_python(sources[file])
        except (SyntaxError, ValueError):
            continue
        for name, line in _reads(tree):
            found.setdefault(name, Mention(name, file, line, _what_is_kept(name)))
    return tuple(found[name] for name in sorted(found))


def _what_is_kept(name: str) -> str:
    if secret_name(name):
        return "looks like a secret: a digest is kept, never its value; replays take it from their own environment or --env-var"
    if is_numeric(name):
        return "decides how numbers come out: kept, and given back to replays"
    if is_machine(name):
        return "says where things lie: replays get this machine's"
    return "kept where it is short and plain, and given back to replays; else a digest is"


def _reads(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _is_environ(node.value):
            yield from _literal(node.slice)
        elif isinstance(node, ast.Compare) and any(_is_environ(c) for c in node.comparators):
            yield from _literal(node.left)
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            owner = function.value if isinstance(function, ast.Attribute) else None
            if (
                node.args
                and name in _CALLS
                and (name == "getenv" or (owner is not None and _is_environ(owner)))
            ):
                yield from _literal(node.args[0])
            for keyword in node.keywords:
                if keyword.arg in _KEYWORDS:
                    yield from _literal(keyword.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "${oc.env:" in node.value:
            yield from ((name, node.lineno) for name in _HYDRA.findall(node.value))


def _literal(node: ast.expr) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value, node.lineno
    elif isinstance(node, ast.List | ast.Tuple):
        for item in node.elts:
            yield from _literal(item)


def _is_environ(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "environ") or (
        isinstance(node, ast.Name) and node.id == "environ"
    )
