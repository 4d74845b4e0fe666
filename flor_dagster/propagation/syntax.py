"""Python's syntax as propagation needs it: which statements hold others, and whether a text is Python at all."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from typing import cast

from flor_dagster.errors import SourceSyntaxError
from flor_dagster.parsing import parse_python

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)
WITHS = (ast.With, ast.AsyncWith)
TRIES = (ast.Try, ast.TryStar)
SCOPES = (*FUNCTIONS, ast.ClassDef)


def parse(source: str, what: str = "source") -> ast.Module:
    """Parse Python source.

    Raises:
        SourceSyntaxError: the text is no Python of the running interpreter (Python 2, torn or conflicted files).
    """
    try:
        with warnings.catch_warnings():
            # Old code may draw warnings; they are not for whoever asks about it.
            warnings.simplefilter("ignore")
            return parse_python(source)
    except SyntaxError as error:
        message = f"the {what} can't be parsed: line {error.lineno or '?'}: {error.msg}"
        raise SourceSyntaxError(message) from error
    except (ValueError, RecursionError) as error:
        message = f"the {what} can't be parsed: {error}"
        raise SourceSyntaxError(message) from error


def compile_error(source: str) -> str | None:
    """Why Python would not compile a text, or None; finds what parsing alone does not (a late `global`)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "old version", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        return str(error)
    return None


def block_parts(syntax: ast.stmt | ast.Module) -> Iterator[tuple[str, ast.AST | None, list[ast.stmt]]]:
    """Blocks of a statement as (role, handler or case, statements), in source order."""
    body = getattr(syntax, "body", None)
    if isinstance(body, list):
        yield "body", None, cast("list[ast.stmt]", body)
    for handler in cast("list[ast.ExceptHandler]", getattr(syntax, "handlers", [])):
        yield "handler", handler, handler.body
    for case in cast("list[ast.match_case]", getattr(syntax, "cases", [])):
        yield "case", case, case.body
    for role in ("orelse", "finalbody"):
        rest = cast("list[ast.stmt]", getattr(syntax, role, []))
        if rest:
            yield role, None, rest


def is_elif_of(syntax: ast.AST, role: str, statements: list[ast.stmt]) -> bool:
    """`elif` is an `If` that starts where the word `elif` does: no statement can be put before or after it."""
    if not (isinstance(syntax, ast.If) and role == "orelse" and len(statements) == 1):
        return False
    inner = statements[0]
    return isinstance(inner, ast.If) and inner.col_offset == syntax.col_offset
