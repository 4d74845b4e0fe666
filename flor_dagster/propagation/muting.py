"""A new block may hold statements that are asked for and others that are not: the others stay at home."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from flor_dagster.propagation.inserting import split_lines
from flor_dagster.propagation.statements import Parsed
from flor_dagster.propagation.syntax import SCOPES, block_parts

MUTED = "#\N{INVISIBLE SEPARATOR}"
"""Stands on the lines of a statement that was taken out, so that all others keep their numbers."""


def without_unasked(parsed: Parsed, wanted: Iterable[int], known: frozenset[str | None]) -> str:
    """The new version without the statements that share a new block with asked ones and are not asked for.

    Args:
        parsed: the new version.
        wanted: first lines of the statements that are asked for.
        known: names that the old version logs: their statements are no new ones.

    Returns:
        The source; every line keeps its number.
    """
    lines = frozenset(wanted)
    unasked = {
        id(f.syntax)
        for f in parsed.found
        if f.form == "alone" and f.statement.name not in known and f.statement.lines[0] not in lines
    }
    if not unasked:
        return parsed.source
    edits: dict[int, tuple[ast.stmt, bool]] = {}
    for block in _blocks(parsed.module, lines, unasked):
        for _, _, body in _bodies(block):
            silent = [s for s in body if id(s) in unasked]
            empty = len(silent) == len(body)
            for number, statement in enumerate(silent):
                edits[id(statement)] = statement, empty and not number
    return _edited(parsed.source, list(edits.values()))


def _bodies(block: ast.stmt) -> Iterator[tuple[str, ast.AST | None, list[ast.stmt]]]:
    for node in ast.walk(block):
        if isinstance(node, ast.stmt):
            yield from block_parts(node)


def _simple(node: ast.AST) -> bool:
    return isinstance(node, ast.stmt) and not any(True for _ in block_parts(node))


def _blocks(module: ast.Module, wanted: frozenset[int], unasked: set[int]) -> list[ast.stmt]:
    """The outermost blocks that hold asked statements and unasked ones, and nothing else."""
    found: list[ast.stmt] = []

    def visit(node: ast.stmt | ast.Module) -> None:
        for _, _, body in block_parts(node):
            for child in body:
                if _simple(child):
                    continue
                inner = [n for n in ast.walk(child) if _simple(n)]
                ours = all(
                    id(n) in unasked or isinstance(n, ast.Pass) or getattr(n, "lineno", 0) in wanted
                    for n in inner
                )
                scope = any(isinstance(n, SCOPES) for n in ast.walk(child))
                if ours and not scope and any(id(n) in unasked for n in inner):
                    found.append(child)
                else:
                    visit(child)

    visit(module)
    return [block for block in found if any(getattr(n, "lineno", 0) in wanted for n in ast.walk(block))]


def _edited(source: str, edits: list[tuple[ast.stmt, bool]]) -> str:
    lines = split_lines(source)
    # From behind, so that what stands before on the same line keeps its column.
    for statement, to_pass in sorted(edits, key=lambda e: (e[0].lineno, e[0].col_offset), reverse=True):
        first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        head = lines[first].encode()[: statement.col_offset].decode()
        tail = lines[last].encode()[statement.end_col_offset :].decode()
        alone = not head.strip() and (not tail.strip() or tail.lstrip().startswith("#"))
        if alone:
            for number in range(first, last + 1):
                ending = lines[number][len(lines[number].rstrip("\r\n")) :]
                lines[number] = head + ("pass" if to_pass and number == first else MUTED) + ending
        elif first == last:
            lines[first] = f"{head}pass{tail}"
    return "".join(lines)
