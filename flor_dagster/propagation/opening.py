"""Open lines that hold several statements (`if x: f()`, `a(); b()`), so that a statement can go between them.

LibCST does it: it keeps every comment, blank and line ending of what it does not change.
"""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider


def open_lines(source: str, lines: Sequence[int]) -> str:
    """Give each statement that starts on one of the 1-based `lines` a line of its own.

    Only these lines change; the program stays the same.

    Args:
        source: Python source.
        lines: Lines to open.

    Returns:
        The source with these lines opened; the source itself if they hold one statement each.
    """
    try:
        module = cst.parse_module(source)
    except cst.ParserSyntaxError:
        return source
    # Deep copies would cost as much as parsing; nothing else uses this module.
    wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
    opened = wrapper.visit(_Opener(frozenset(lines)))
    return opened.code


class _Opener(cst.CSTTransformer):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, lines: frozenset[int]) -> None:
        super().__init__()
        self._lines = lines

    def _meant(self, node: cst.CSTNode) -> bool:
        position = self.get_metadata(PositionProvider, node)
        return isinstance(position, CodeRange) and position.start.line in self._lines

    def leave_SimpleStatementLine(  # noqa: N802  # LibCST's name
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.SimpleStatementLine | cst.FlattenSentinel[cst.SimpleStatementLine]:
        if len(updated_node.body) < 2 or not self._meant(original_node):
            return updated_node
        return cst.FlattenSentinel(_split(updated_node))

    def leave_SimpleStatementSuite(  # noqa: N802  # LibCST's name
        self, original_node: cst.SimpleStatementSuite, updated_node: cst.SimpleStatementSuite
    ) -> cst.BaseSuite:
        if not self._meant(original_node):
            return updated_node
        line = cst.SimpleStatementLine(
            body=updated_node.body, trailing_whitespace=updated_node.trailing_whitespace
        )
        header = cst.TrailingWhitespace(newline=updated_node.trailing_whitespace.newline)
        return cst.IndentedBlock(body=_split(line), header=header)


def _split(line: cst.SimpleStatementLine) -> list[cst.SimpleStatementLine]:
    """One line for each small statement; what stands above and behind the whole line stays with its ends."""
    small = [s.with_changes(semicolon=cst.MaybeSentinel.DEFAULT) for s in line.body]
    plain = cst.TrailingWhitespace(newline=line.trailing_whitespace.newline)
    lines = [cst.SimpleStatementLine(body=[s], trailing_whitespace=plain) for s in small]
    lines[0] = lines[0].with_changes(leading_lines=line.leading_lines)
    lines[-1] = lines[-1].with_changes(trailing_whitespace=line.trailing_whitespace)
    return lines
