"""A condition over a frame's columns, as a person writes it: `epoch >= 3 and loss < 0.5`.

A small whitelist of Python's own syntax is read into a mask; nothing of it is ever evaluated as code. A column whose name is no
Python name is written in backticks: `` `train/loss` < 1 ``.
"""

from __future__ import annotations

import ast
import operator
import re
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import QueryError
from flor_dagster.parsing import parse_python

if TYPE_CHECKING:
    import pandas as pd

_COMPARE: dict[type[ast.cmpop], Any] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.FloorDiv: operator.floordiv,
}
_QUOTED = re.compile(r"`([^`]+)`")
_MAX_LENGTH = 2000


def column_names(text: str) -> list[str]:
    """The columns that a condition reads, in the order of their first mention."""
    tree, quoted = _parse(text)
    found = [quoted.get(node.id, node.id) for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return list(dict.fromkeys(found))


def mask(frame: pd.DataFrame, text: str) -> Any:
    """Which rows of the frame fulfil the condition; an empty place fulfils none.

    Raises:
        QueryError: when the condition can't be read, or does not fit the columns.
    """
    tree, quoted = _parse(text)
    try:
        found = _Reader(frame, quoted, text).read(tree.body)
        if not hasattr(found, "dtype") or str(found.dtype) not in ("bool", "boolean"):
            raise QueryError(
                f"The condition {text!r} is no yes or no for each row; compare a column, like `loss < 0.5`."
            )
        return found.fillna(value=False).astype(bool) if str(found.dtype) == "boolean" else found
    except (TypeError, ValueError, ArithmeticError) as error:
        raise QueryError(f"The condition {text!r} does not fit its columns: {error}") from error


def _parse(text: str) -> tuple[ast.Expression, dict[str, str]]:
    if len(text) > _MAX_LENGTH:
        raise QueryError(f"The condition is longer than {_MAX_LENGTH} characters.")
    quoted: dict[str, str] = {}

    def stand_in(match: re.Match[str]) -> str:
        name = f"_flor_column_{len(quoted)}"
        quoted[name] = match[1]
        return name

    try:
        return parse_python(_QUOTED.sub(stand_in, text).strip(), mode="eval"), quoted
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise QueryError(
            f"The condition {text!r} can't be read: {error}. Write it like: epoch >= 3 and loss < 0.5"
        ) from error


class _Reader:
    def __init__(self, frame: pd.DataFrame, quoted: dict[str, str], text: str) -> None:
        self.frame = frame
        self.quoted = quoted
        self.text = text

    def read(self, node: ast.expr) -> Any:
        match node:
            case ast.Name(id=name):
                return self._column(self.quoted.get(name, name))
            case ast.Constant(value=value) if isinstance(value, bool | int | float | str) or value is None:
                return value
            case ast.BoolOp(op=op, values=values):
                parts = [self._mask(value) for value in values]
                found = parts[0]
                for part in parts[1:]:
                    found = found & part if isinstance(op, ast.And) else found | part
                return found
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self._mask(operand)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.read(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](self.read(left), self.read(right))
            case ast.Compare():
                return self._compare(node)
            case _:
                raise QueryError(
                    f"The condition {self.text!r} uses {type(node).__name__}, which is not allowed there. Allowed are "
                    "columns, numbers, texts, comparisons, `in (…)`, and, or, not, + - * / % //, and `x is None`."
                )

    def _column(self, name: str) -> Any:
        if name not in self.frame.columns:
            raise QueryError(
                f"The condition {self.text!r} reads {name!r}; the view has {', '.join(map(str, self.frame.columns))}."
            )
        return self.frame[name]

    def _mask(self, node: ast.expr) -> Any:
        found = self.read(node)
        if str(getattr(found, "dtype", "")) == "boolean":
            return found.fillna(value=False).astype(bool)
        if str(getattr(found, "dtype", "")) != "bool":
            raise QueryError(
                f"{ast.unparse(node)!r} in the condition {self.text!r} is no yes or no for each row."
            )
        return found

    def _compare(self, node: ast.Compare) -> Any:
        left_node, found = node.left, None
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            one = self._one(op, left_node, right_node)
            found = one if found is None else found & one
            left_node = right_node
        return found

    def _one(self, op: ast.cmpop, left_node: ast.expr, right_node: ast.expr) -> Any:
        left = self.read(left_node)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right_node, ast.Tuple | ast.List | ast.Set):
                raise QueryError(f"In {self.text!r}, `in` needs a list of values, like: epoch in (0, 3)")
            found = left.isin([self.read(item) for item in right_node.elts])
            return found if isinstance(op, ast.In) else ~found
        if isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right_node, ast.Constant) and right_node.value is None):
                raise QueryError(f"In {self.text!r}, `is` compares with None alone.")
            return left.isna() if isinstance(op, ast.Is) else left.notna()
        right = self.read(right_node)
        found = _COMPARE[type(op)](left, right)
        if isinstance(op, ast.NotEq) and hasattr(found, "dtype"):
            # An empty place is not known to differ.
            for side in (left, right):
                if hasattr(side, "notna"):
                    found = found & side.notna()
        return self._known(found)

    def _known(self, found: Any) -> Any:
        return (
            found.fillna(value=False).astype(bool) if str(getattr(found, "dtype", "")) == "boolean" else found
        )
