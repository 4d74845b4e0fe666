"""Python's own parser, for code that several threads call."""

from __future__ import annotations

import ast
import re
import threading
from typing import Literal, overload

_ONE_AT_A_TIME = threading.Lock()


@overload
def parse_python(source: str | bytes, filename: str = ..., mode: Literal["exec"] = ...) -> ast.Module: ...
@overload
def parse_python(source: str | bytes, filename: str = ..., *, mode: Literal["eval"]) -> ast.Expression: ...
def parse_python(
    source: str | bytes, filename: str = "<unknown>", mode: Literal["exec", "eval"] = "exec"
) -> ast.Module | ast.Expression:
    """`ast.parse`, one thread at a time.

    Before 3.13, CPython counts the depth of a tree that is being made in one place for all threads: where two make one at
    once, it may raise `SystemError: AST constructor recursion depth mismatch` about source that is well.

    Raises:
        SyntaxError: The source is no Python; as `ast.parse` raises it.
        ValueError: The source holds null bytes.
    """
    with _ONE_AT_A_TIME:
        if mode == "eval":
            return ast.parse(source, filename, "eval")
        return ast.parse(source, filename)


_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def source_lines(source: str, *, keepends: bool = False) -> list[str]:
    r"""The lines of a Python source, as Python counts them.

    `str.splitlines` also ends a line at a form feed, at U+2028 and at six more characters, which may stand in the midst of one.
    """
    lines = _LINES.findall(source)
    return lines if keepends else [line.rstrip("\r\n") for line in lines]
