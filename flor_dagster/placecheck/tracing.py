"""Follow a program from the top of a function or file on, through calls of the repository's own functions."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from flor_dagster.placecheck.events import (
    HARMLESS,
    MUTATORS,
    Event,
    EventKind,
    Frame,
    Trace,
    last_name,
    names_in,
    outer_call,
    spelled,
    unwrapped,
)
from flor_dagster.placecheck.program import Function, Module, Program, children, is_log, logged, walk
from flor_dagster.placecheck.standing import BUILTINS, Path, Standing, path_of
from flor_dagster.placecheck.touching import Touches

MOST_EVENTS = 8000
DEEPEST = 5


class TooMuch(Exception):  # noqa: N818  # an answer, not a fault
    """The program is too large to be followed."""


@dataclass(slots=True, eq=False)
class _Scope:
    number: int
    module: Module
    function: Function | None
    local: frozenset[str]
    outer: _Scope | None = None
    returned: Path = ()
    depth: int = 0

    def path(self, name: str) -> Path:
        """What a plain name means here."""
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.local:
                return (f"{scope.number}.{name}",)
            scope = scope.outer
        return (f"g.{name}",)


@dataclass(slots=True)
class Tracer:
    """Follows one program. `inline` says of which of the repository's functions the inside counts."""

    program: Program
    standing: Standing
    inline: Callable[[Function], bool]
    trace: Trace = field(default_factory=Trace)
    _context: tuple[Frame, ...] = ()
    _count: int = 0
    _groups: int = 0
    _returned: dict[int, Path] = field(default_factory=dict[int, Path])
    _types: dict[Path, tuple[Module, str]] = field(default_factory=dict[Path, tuple[Module, str]])
    _open: list[Function] = field(default_factory=list[Function])
    _touches: Touches | None = None

    def run(self, module: Module, function: Function | None) -> Trace:
        """Follow a function, or a file as it is run."""
        scope = self._scope(module, function, None)
        if function is not None:
            self._open.append(function)
            if function.owner is not None and function.node.args.args:
                self._types[scope.path(function.node.args.args[0].arg)] = (module, function.owner)
        self._block(module.tree.body if function is None else function.node.body, scope)
        return self.trace

    def _scope(self, module: Module, function: Function | None, outer: _Scope | None) -> _Scope:
        self._count += 1
        local = locals_of(function.node) if function is not None else frozenset[str]()
        depth = outer.depth + 1 if outer is not None else 0
        scope = _Scope(self._count, module, function, local, None, (f"{self._count}.<return>",), depth)
        while outer is not None and function is not None and function.outer is not outer.function:
            outer = outer.outer
        scope.outer = outer if function is not None and function.outer is not None else None
        return scope

    # --- statements

    def _block(self, body: list[ast.stmt], scope: _Scope) -> None:
        for node in body:
            self._statement(node, scope)

    def _mark(self, scope: _Scope) -> None:
        self.trace.stars.append((len(self.trace.events), self._context, scope.path))

    def _statement(self, node: ast.stmt, scope: _Scope) -> None:
        standing = self.standing
        here = node is standing.star
        if here and standing.how == "own":
            self._mark(scope)
            return
        if id(node) in standing.added and not any(node is c for c in standing.carried):
            return
        if here and standing.how == "before":
            self._mark(scope)
        handler = getattr(self, f"_on_{type(node).__name__.lower()}", None)
        if handler is not None:
            handler(node, scope)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Import | ast.ImportFrom):
            self._expressions(node, scope)
        if here and standing.how == "after":
            self._mark(scope)

    def _within(self, frame: Frame, body: list[ast.stmt], scope: _Scope) -> None:
        before = self._context
        self._context = (*before, frame)
        self.trace.frames.append(frame)
        self._block(body, scope)
        self._context = before

    def _on_classdef(self, node: ast.ClassDef, scope: _Scope) -> None:
        if any(n is self.standing.star for n in node.body):
            self._block(node.body, scope)

    def _on_expr(self, node: ast.Expr, scope: _Scope) -> None:
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        if is_log(scope.module, value):
            return
        self._expressions(value, scope, alone=value if isinstance(value, ast.Call) else None)

    def _on_assign(self, node: ast.Assign, scope: _Scope) -> None:
        value = self._value(node.value, scope)
        self._expressions(value, scope)
        for target in node.targets:
            self._bind(target, value, scope)

    def _on_annassign(self, node: ast.AnnAssign, scope: _Scope) -> None:
        if node.value is not None:
            value = self._value(node.value, scope)
            self._expressions(value, scope)
            self._bind(node.target, value, scope)

    def _on_augassign(self, node: ast.AugAssign, scope: _Scope) -> None:
        self._expressions(node.value, scope)
        operator = type(node.op).__name__
        self._emit_target(node.target, node.value, scope, f"{operator}= ", reads_itself=True)

    def _on_delete(self, node: ast.Delete, scope: _Scope) -> None:
        for target in node.targets:
            self._emit_target(target, None, scope, "del ")

    def _on_return(self, node: ast.Return, scope: _Scope) -> None:
        if node.value is not None:
            value = self._value(node.value, scope)
            self._expressions(value, scope)
            self._assign(scope.returned, value, scope)
        self._jump("return", scope)

    def _on_raise(self, node: ast.Raise, scope: _Scope) -> None:
        self._jump("raise", scope)

    def _on_break(self, _node: ast.Break, scope: _Scope) -> None:
        self._jump("break", scope)

    def _on_continue(self, _node: ast.Continue, scope: _Scope) -> None:
        self._jump("continue", scope)

    def _on_for(self, node: ast.For | ast.AsyncFor, scope: _Scope) -> None:
        name, through = unwrapped(node.iter)
        self._expressions(node.iter, scope)
        label = f"for {self._shape(through, scope)}"
        frame = Frame(
            "loop", label, node, self._names(through, scope) | self._names(node.target, scope), name
        )
        before, self._context = self._context, (*self._context, frame)
        for target in walk(node.target):
            if isinstance(target, ast.Name | ast.Attribute) and isinstance(target.ctx, ast.Store):
                self._emit_target(target, through, scope, "for ")
        self._context = before
        self._within(frame, node.body, scope)
        self._block(node.orelse, scope)

    _on_asyncfor = _on_for

    def _on_while(self, node: ast.While, scope: _Scope) -> None:
        frame = Frame("loop", f"while {self._shape(node.test, scope)}", node, self._names(node.test, scope))
        self._within(frame, node.body, scope)
        self._block(node.orelse, scope)

    def _on_with(self, node: ast.With | ast.AsyncWith, scope: _Scope) -> None:
        for item in node.items:
            self._expressions(item.context_expr, scope)
            if item.optional_vars is not None:
                self._bind(item.optional_vars, item.context_expr, scope)
        label = ",".join(self._shape(i.context_expr, scope) for i in node.items)
        self._within(Frame("with", label, node), node.body, scope)

    _on_asyncwith = _on_with

    def _on_try(self, node: ast.Try, scope: _Scope) -> None:
        self._within(Frame("try", "", node), node.body, scope)
        for handler in node.handlers:
            label = self._shape(handler.type, scope) if handler.type is not None else ""
            self._within(Frame("handler", label, handler), handler.body, scope)
        self._within(Frame("try", "", node), node.orelse, scope)
        self._block(node.finalbody, scope)

    _on_trystar = _on_try

    def _on_if(self, node: ast.If, scope: _Scope) -> None:
        if _is_main_guard(node.test):
            self._block(node.body, scope)
            return
        arms: list[tuple[ast.expr | None, list[ast.stmt], ast.AST]] = [(node.test, node.body, node)]
        rest = node.orelse
        while len(rest) == 1 and isinstance(rest[0], ast.If) and rest[0] is not self.standing.star:
            arms.append((rest[0].test, rest[0].body, rest[0]))
            rest = rest[0].orelse
        if rest:
            arms.append((None, rest, node))
        self._groups += 1
        group, known = self._groups, len(arms) if rest else 0
        first = f"if {self._shape(node.test, scope)}"
        for position, (test, body, holder) in enumerate(arms):
            if test is not None:
                self._expressions(test, scope)
            label = f"if {self._shape(test, scope)}" if test is not None else f"not {first}"
            names = self._names(test if test is not None else node.test, scope)
            self._within(Frame("arm", label, holder, names, None, group, position, known), body, scope)

    def _on_match(self, node: ast.Match, scope: _Scope) -> None:
        self._expressions(node.subject, scope)
        self._groups += 1
        group = self._groups
        for position, case in enumerate(node.cases):
            label = f"case {spelled(case.pattern, None)}"
            frame = Frame("arm", label, case, frozenset(), None, group, position, 0)
            before, self._context = self._context, (*self._context, frame)
            for inner in walk(case.pattern):
                bound = getattr(inner, "name", None) or getattr(inner, "rest", None)
                if isinstance(inner, ast.MatchAs | ast.MatchStar | ast.MatchMapping) and bound:
                    self._emit("def", scope.path(bound), label, label, "case", frozenset())
            self._context = before
            self._within(frame, case.body, scope)

    # --- expressions

    def _value(self, node: ast.expr, scope: _Scope) -> ast.expr:
        if isinstance(node, ast.Call) and is_log(scope.module, node):
            return logged(node) or node
        return node

    def _expressions(self, node: ast.AST, scope: _Scope, alone: ast.Call | None = None) -> None:
        module = scope.module
        if id(node) not in module.inner:
            module.inner[id(node)] = list(_calls_in(node))
        for call in module.inner[id(node)]:
            if not is_log(scope.module, call):
                self._call(call, scope, alone=call is alone)
        for inner in walk(node) if module.walrus else ():
            if isinstance(inner, ast.NamedExpr):
                self._bind(inner.target, inner.value, scope)

    def _call(self, call: ast.Call, scope: _Scope, *, alone: bool) -> None:
        function, receiver, made = self._target(call, scope)
        if function is not None and self._may_enter(function, scope):
            self._enter(call, function, receiver, scope, made=made)
            return
        callee = last_name(call.func)
        shape = self._shape(call, scope)
        touches = self._touching().of(function) if function is not None else None
        if isinstance(call.func, ast.Attribute):
            path = self._path(call.func.value, scope)
            if path is not None and touches is not None:
                for attribute in touches.attributes:
                    self._emit("call", (*path, attribute), shape, shape, callee, self._names(call, scope))
            elif path is not None and (callee not in HARMLESS or callee in MUTATORS or callee == "backward"):
                strong = alone or callee in MUTATORS or callee.endswith("_")
                self._emit("call", path, shape, shape, callee, self._names(call, scope), strong=strong)
        if touches is not None:
            for name in touches.globals:
                self._emit("call", (f"g.{name}",), shape, shape, callee, self._names(call, scope))
        elif callee in HARMLESS:
            return
        for position, argument in _given(call):
            path = self._path(argument, scope)
            if path is None and isinstance(argument, ast.Call) and isinstance(argument.func, ast.Attribute):
                path = self._path(argument.func.value, scope)
            if path is None:
                continue
            if touches is None:
                strong = alone or callee.endswith("_") or callee in MUTATORS
                self._emit(
                    "call", path, shape, shape, callee, self._names(call, scope), strong=strong, given=True
                )
            elif touches.parameter(position, method=receiver is not None or made):
                self._emit("call", path, shape, shape, callee, self._names(call, scope))

    def _touching(self) -> Touches:
        if self._touches is None:
            self._touches = Touches(self.program)
        return self._touches

    def _target(self, call: ast.Call, scope: _Scope) -> tuple[Function | None, Path | None, bool]:
        """The repository's function that is called, what it is called on, and whether an object is made by it."""
        func = call.func
        if isinstance(func, ast.Name):
            inner: _Scope | None = scope
            while inner is not None and inner.function is not None:
                nested = inner.module.functions.get(f"{inner.function.qualname}.{func.id}")
                if nested is not None:
                    return nested, None, False
                inner = inner.outer
            place = self.program.class_of(scope.module, func.id)
            if place is not None:
                return self.program.method(*place, "__init__"), None, True
            return self.program.function(scope.module, func.id), None, False
        if not isinstance(func, ast.Attribute):
            return None, None, False
        if isinstance(func.value, ast.Name) and func.value.id in scope.module.imports:
            found = self.program.imported(scope.module, func.value.id)
            if found is not None and found[1] is None:
                made = func.attr in found[0].classes
                return self.program.function(found[0], func.attr), None, made
        receiver = self._path(func.value, scope)
        if receiver is not None:
            known = self._types.get(receiver)
            if known is not None:
                return self.program.method(*known, func.attr), receiver, False
        elif isinstance(func.value, ast.Call):
            receiver = self._returned.get(id(func.value)) or self._made(func.value, scope)
            known = self._types.get(receiver) if receiver is not None else None
            if known is not None:
                return self.program.method(*known, func.attr), receiver, False
        return None, None, False

    def _made(self, call: ast.Call, scope: _Scope) -> Path | None:
        """The object that a call of a class of the repository makes, where a method is called on it at once."""
        place = self.program.class_of(scope.module, call.func.id) if isinstance(call.func, ast.Name) else None
        if place is None:
            return None
        self._count += 1
        path = (f"{self._count}.<new>",)
        shape = self._shape(call, scope)
        self._emit("def", path, shape, shape, outer_call(call, lambda _: False), frozenset())
        self._types[path] = place
        return path

    def _may_enter(self, function: Function, scope: _Scope) -> bool:
        return scope.depth < DEEPEST and function not in self._open and self.inline(function)

    def _enter(
        self, call: ast.Call, function: Function, receiver: Path | None, scope: _Scope, *, made: bool
    ) -> None:
        module = self.program.module(function.path)
        if module is None:
            return
        inner = self._scope(module, function, scope)
        inner.depth = scope.depth + 1
        before, self._context = self._context, (*self._context, Frame("call", function.name, call))
        parameters = [*function.node.args.posonlyargs, *function.node.args.args]
        if (receiver is not None or made) and parameters and not _is_static(function):
            own = inner.path(parameters.pop(0).arg)
            if made:
                place = self.program.class_of(scope.module, last_name(call.func))
                receiver = (f"{inner.number}.<new>",)
                shape = f"{last_name(call.func)}()"
                self._emit("def", receiver, shape, shape, f"call {last_name(call.func)}", frozenset())
                if place is not None:
                    self._types[receiver] = place
            assert receiver is not None
            self._copy(own, receiver)
        self._arguments(call, function, parameters, scope, inner)
        self._open.append(function)
        self._block(function.node.body, inner)
        self._open.pop()
        self._context = before
        self._returned[id(call)] = receiver if made and receiver is not None else inner.returned

    def _arguments(
        self, call: ast.Call, function: Function, parameters: list[ast.arg], scope: _Scope, inner: _Scope
    ) -> None:
        given: dict[str, ast.expr] = {}
        for parameter, argument in zip(parameters, call.args, strict=False):
            if isinstance(argument, ast.Starred):
                break
            given[parameter.arg] = argument
        given |= {k.arg: k.value for k in call.keywords if k.arg is not None}
        for name, argument in given.items():
            if name in inner.local:
                self._assign(inner.path(name), argument, scope)
        defaults = function.node.args.defaults
        for parameter, default in zip(parameters[len(parameters) - len(defaults) :], defaults, strict=False):
            if parameter.arg not in given:
                self._assign(inner.path(parameter.arg), default, inner)

    # --- binding

    def _bind(self, target: ast.expr, value: ast.expr, scope: _Scope) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
                for inner, part in zip(target.elts, value.elts, strict=True):
                    self._bind(inner, part, scope)
                return
            called = value.value if isinstance(value, ast.Await) else value
            source = self._returned.get(id(called))
            for position, inner in enumerate(target.elts):
                if isinstance(inner, ast.Tuple | ast.List):
                    self._bind(inner, value, scope)
                elif source is not None and (path := self._path(inner, scope)) is not None:
                    self._copy(path, (*source, str(position)))
                else:
                    self._emit_target(inner, value, scope, f"{position}/{len(target.elts)} ")
            return
        path = self._path(target, scope) if not isinstance(target, ast.Subscript | ast.Starred) else None
        if path is None:
            self._emit_target(target, value, scope, "")
        else:
            self._assign(path, value, scope)

    def _assign(self, path: Path, value: ast.expr, scope: _Scope) -> None:
        called = value.value if isinstance(value, ast.Await) else value
        source = self._returned.get(id(called))
        if source is None:
            source = self._path(value, scope)
            if source is not None and source[0].startswith("g.") and not self._variable(source[0][2:], scope):
                source = None
        if source is not None:
            self._copy(path, source)
            return
        if isinstance(value, ast.Tuple) and path[-1].endswith("<return>"):
            for position, part in enumerate(value.elts):
                self._assign((*path, str(position)), part, scope)
            return
        self._define(path, value, scope, "")
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
            place = self.program.class_of(scope.module, value.func.id)
            if place is not None:
                self._types[path] = place

    def _copy(self, path: Path, source: Path) -> None:
        if path == source:
            return
        self._emit("def", path, "", "", "", frozenset(), copy=source)
        if source in self._types:
            self._types[path] = self._types[source]

    def _emit_target(
        self,
        target: ast.expr,
        value: ast.expr | None,
        scope: _Scope,
        prefix: str,
        *,
        reads_itself: bool = False,
    ) -> None:
        if isinstance(target, ast.Starred):
            target = target.value
        if isinstance(target, ast.Subscript):
            path = self._path(target.value, scope)
            if path is not None:
                prefix = f"{prefix}[{self._shape(target.slice, scope)}]="
                self._define(path, value, scope, prefix, kind="store")
            return
        path = self._path(target, scope)
        if path is not None:
            self._define(path, value, scope, prefix, reads_itself=reads_itself)

    def _define(
        self,
        path: Path,
        value: ast.expr | None,
        scope: _Scope,
        prefix: str,
        *,
        kind: EventKind = "def",
        reads_itself: bool = False,
    ) -> None:
        shape = prefix + (self._shape(value, scope) if value is not None else "")
        exact = prefix + (self._spelled(value, scope) if value is not None else "")
        operator = prefix.split(" ")[0] if prefix and not prefix[0].isdigit() else ""
        callee = operator + outer_call(value, lambda name: self._variable(name, scope))
        itself = reads_itself or (value is not None and self._mentions(value, path, scope))
        self._emit(kind, path, exact, shape, callee, self._names(value, scope), reads_itself=itself)

    def _mentions(self, value: ast.expr, path: Path, scope: _Scope) -> bool:
        for inner in walk(value):
            if isinstance(inner, ast.Name | ast.Attribute):
                found = self._path(inner, scope)
                if found is not None and found[: len(path)] == path:
                    return True
        return False

    def _path(self, node: ast.AST, scope: _Scope) -> Path | None:
        plain = path_of(node)
        if plain is not None:
            return (*scope.path(plain[0]), *plain[1:])
        while isinstance(node, ast.Subscript | ast.Attribute):
            node = node.value
            plain = path_of(node)
            if plain is not None:
                return (*scope.path(plain[0]), *plain[1:])
        return None

    def _variable(self, name: str, scope: _Scope) -> bool:
        if scope.path(name)[0][0] != "g":
            function = scope.function
            return function is None or f"{function.qualname}.{name}" not in scope.module.functions
        module = scope.module
        return name in module.names and not (
            name in BUILTINS or name in module.imports or name in module.functions or name in module.classes
        )

    def _shape(self, node: ast.AST, scope: _Scope) -> str:
        shapes = scope.module.shapes
        if id(node) not in shapes:
            shapes[id(node)] = spelled(node, lambda name: self._variable(name, scope))
        return shapes[id(node)]

    @staticmethod
    def _names(node: ast.AST | None, scope: _Scope) -> frozenset[str]:
        if node is None:
            return frozenset()
        words = scope.module.words
        if id(node) not in words:
            words[id(node)] = names_in(node)
        return words[id(node)]

    @staticmethod
    def _spelled(node: ast.AST, scope: _Scope) -> str:
        spellings = scope.module.spellings
        if id(node) not in spellings:
            spellings[id(node)] = spelled(node, None)
        return spellings[id(node)]

    def _jump(self, how: str, scope: _Scope) -> None:
        arm = next((f.label for f in reversed(self._context) if f.kind in ("arm", "loop", "handler")), "")
        self._emit("jump", (f"{scope.number}.<jump>",), f"{how} {arm}", f"{how} {arm}", how, frozenset())

    def _emit(
        self,
        kind: EventKind,
        path: Path,
        exact: str,
        shape: str,
        callee: str,
        names: frozenset[str],
        *,
        copy: Path | None = None,
        reads_itself: bool = False,
        strong: bool = True,
        given: bool = False,
    ) -> None:
        if len(self.trace.events) >= MOST_EVENTS:
            raise TooMuch
        self.trace.events.append(
            Event(kind, path, exact, shape, callee, names, self._context, copy, reads_itself, strong, given)
        )


def locals_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> frozenset[str]:
    """The names that a function binds for itself."""
    found = {a.arg for a in walk(node.args) if isinstance(a, ast.arg)}
    elsewhere: set[str] = set()
    stack: list[ast.AST] = list(node.body)
    while stack:
        inner = stack.pop()
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(inner.name)
            continue
        if isinstance(inner, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            continue
        if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
            found.add(inner.id)
        elif isinstance(inner, ast.Global | ast.Nonlocal):
            elsewhere.update(inner.names)
        elif isinstance(inner, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and inner.name:
            found.add(inner.name)
        stack.extend(children(inner))
    return frozenset(found - elsewhere)


def _calls_in(node: ast.AST) -> Iterator[ast.Call]:
    if isinstance(node, ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in children(node):
        yield from _calls_in(child)
    if isinstance(node, ast.Call):
        yield node


def _given(call: ast.Call) -> Iterator[tuple[int | str, ast.expr]]:
    for position, argument in enumerate(call.args):
        yield position, argument.value if isinstance(argument, ast.Starred) else argument
    for keyword in call.keywords:
        yield keyword.arg or "**", keyword.value


def _is_static(function: Function) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.node.decorator_list)


def _is_main_guard(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"
