"""What a function of the repository changes of what is passed to it, of its object and of its file."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from flor_dagster.placecheck.events import HARMLESS, MUTATORS, last_name
from flor_dagster.placecheck.program import Function, Program, walk

_DEPTH = 3


@dataclass(slots=True)
class Touched:
    """Parameters whose object is changed, attributes of the function's object, names of its file."""

    names: list[str] = field(default_factory=list[str])
    parameters: set[str] = field(default_factory=set[str])
    attributes: set[str] = field(default_factory=set[str])
    globals: set[str] = field(default_factory=set[str])

    def parameter(self, position: int | str, *, method: bool) -> bool:
        """Whether the argument in a position, or of a keyword, is changed."""
        if isinstance(position, str):
            return position in self.parameters
        names = self.names[1:] if method else self.names
        return names[position] in self.parameters if position < len(names) else False


class Touches:
    """Answers for the functions of one program, each looked at once."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._known: dict[Function, Touched] = {}

    def of(self, function: Function, depth: int = 0) -> Touched:
        """What a function changes."""
        known = self._known.get(function)
        if known is not None:
            return known
        arguments = function.node.args
        touched = Touched([a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)])
        self._known[function] = touched
        for node in walk(function.node):
            self._look(node, function, touched, depth)
        return touched

    def _look(self, node: ast.AST, function: Function, touched: Touched, depth: int) -> None:
        if isinstance(node, ast.Global):
            touched.globals.update(node.names)
        elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            self._changed(node, function, touched)
        elif isinstance(node, ast.AugAssign):
            self._changed(node.target, function, touched)
        elif isinstance(node, ast.Call):
            self._called(node, function, touched, depth, alone=last_name(node.func) in MUTATORS)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            self._called(node.value, function, touched, depth, alone=True)

    def _changed(self, node: ast.expr, function: Function, touched: Touched) -> None:
        attribute = ""
        while isinstance(node, ast.Attribute | ast.Subscript):
            attribute = node.attr if isinstance(node, ast.Attribute) else attribute
            node = node.value
        if not isinstance(node, ast.Name):
            return
        if function.owner is not None and touched.names and node.id == touched.names[0]:
            if attribute:
                touched.attributes.add(attribute)
        elif node.id in touched.names:
            touched.parameters.add(node.id)
        else:
            touched.globals.add(node.id)

    def _called(
        self, call: ast.Call, function: Function, touched: Touched, depth: int, *, alone: bool
    ) -> None:
        callee = last_name(call.func)
        own = self._own(call, function)
        if own is not None and depth < _DEPTH:
            inner = self.of(own, depth + 1)
            if isinstance(call.func, ast.Attribute):
                touched.attributes |= inner.attributes
            touched.globals |= inner.globals
            method = isinstance(call.func, ast.Attribute)
            for position, argument in enumerate(call.args):
                if inner.parameter(position, method=method):
                    self._changed(argument, function, touched)
            return
        if not alone and not callee.endswith("_"):
            return
        if isinstance(call.func, ast.Attribute) and (callee not in HARMLESS or callee in MUTATORS):
            self._changed(call.func.value, function, touched)
        if callee not in HARMLESS and callee not in MUTATORS:
            for argument in call.args:
                self._changed(argument, function, touched)

    def _own(self, call: ast.Call, function: Function) -> Function | None:
        module = self._program.module(function.path)
        if module is None:
            return None
        if isinstance(call.func, ast.Name):
            return self._program.function(module, call.func.id)
        if (
            isinstance(call.func, ast.Attribute)
            and isinstance(call.func.value, ast.Name)
            and function.owner is not None
            and call.func.value.id == "self"
        ):
            return self._program.method(module, function.owner, call.func.attr)
        return None
