"""Does a training run read its standard input? It is not kept, and a replay has none."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from flor_dagster.parsing import parse_python

_FULL = frozenset({"pipe", "file", "terminal", "socket"})


def why_input_is_lost(header: Mapping[str, Any], sources: Iterable[tuple[str, str]]) -> str:
    """Why what a run computed may depend on its standard input; empty where it had none, or its code reads none.

    Args:
        header: of the run's journal.
        sources: file and text of what it loaded of its repository.
    """
    if (header.get("process") or {}).get("stdin") not in _FULL:
        return ""
    for file, text in sources:
        line = _line_that_reads(text)
        if line:
            return f"{file}, line {line}, reads the standard input, which is not kept: a replay has none"
    return ""


def _line_that_reads(text: str) -> int:
    if not any(word in text for word in ("stdin", "input", "open(0")):
        return 0
    try:
        tree = parse_python(text)
    except (SyntaxError, ValueError):
        return 1
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="stdin") | ast.Name(id="stdin"):
                return node.lineno
            case ast.Import(names=names) if any(alias.name == "fileinput" for alias in names):
                return node.lineno
            case ast.ImportFrom(module="fileinput"):
                return node.lineno
            case ast.ImportFrom(module="sys", names=names) if any(alias.name == "stdin" for alias in names):
                return node.lineno
            case ast.Call(func=ast.Name(id="input")):
                return node.lineno
            case ast.Call(func=ast.Name(id="open"), args=[ast.Constant(value=0), *_]):
                return node.lineno
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="os"), attr="read" | "fdopen" | "dup"),
                args=[ast.Constant(value=0), *_],
            ):
                return node.lineno
            case ast.Call(
                func=ast.Name(id="open") | ast.Attribute(attr="open"),
                args=[ast.Constant(value="/dev/stdin" | "/dev/fd/0" | "/proc/self/fd/0"), *_],
            ):
                return node.lineno
            case _:
                pass
    return 0
