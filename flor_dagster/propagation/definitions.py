"""Which definitions of a name reach a place, and whether the name is certainly assigned there.

An abstract interpretation over the statement tree: before every statement, each local name maps to the set of statements
that may have bound it last; `UNBOUND` in the set means that it may not be bound at all. Loops are run twice (their
second round sees the first one's bindings), an exception may leave a `try` body after any statement, and what follows a
jump is no place.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flor_dagster.propagation.names import (
    BUILTINS,
    deleted,
    dotted,
    imported,
    parameters,
    stored,
)
from flor_dagster.propagation.syntax import TRIES, WITHS
from flor_dagster.propagation.tree import Block, Node, Tree

UNBOUND = -1
State = Mapping[str, frozenset[int]]
_NOT_BOUND = frozenset({UNBOUND})
_MOST_LAYERS = 32
_EXITS = frozenset(["sys.exit", "exit", "quit", "os._exit", "os.abort"])


@dataclass(frozen=True, slots=True)
class Reach:
    """What a name is at a place: the numbers of the statements that may have bound it, and from which scope."""

    definitions: frozenset[int]
    definite: bool
    origin: str  # local, enclosing, module, builtin, star, none

    @property
    def bound(self) -> bool:
        """Whether the name can have a value at all."""
        return self.origin != "none"


_ABSENT = Reach(frozenset(), definite=False, origin="none")
_BUILTIN = Reach(frozenset(), definite=True, origin="builtin")
_STAR = Reach(frozenset(), definite=True, origin="star")


@dataclass(slots=True)
class _Jumps:
    breaks: list[State] = field(default_factory=list[State])
    continues: list[State] = field(default_factory=list[State])


class _Layered(Mapping[str, frozenset[int]]):
    """A state as what it changes in another one: a straight run of statements does not copy all names for each."""

    __slots__ = ("below", "depth", "own")

    def __init__(self, below: State, own: dict[str, frozenset[int]], depth: int) -> None:
        self.below, self.own, self.depth = below, own, depth

    @classmethod
    def over(cls, below: State, own: dict[str, frozenset[int]]) -> _Layered:
        """What changes on top of a state."""
        depth = below.depth + 1 if isinstance(below, _Layered) else 1
        if depth > _MOST_LAYERS:
            return cls(_flat(below), own, 1)
        return cls(below, own, depth)

    def __getitem__(self, name: str) -> frozenset[int]:
        state: State = self
        while isinstance(state, _Layered):
            found = state.own.get(name)
            if found is not None:
                return found
            state = state.below
        return state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.flat())

    def __len__(self) -> int:
        return len(self.flat())

    def flat(self) -> dict[str, frozenset[int]]:
        """All of it."""
        layers: list[dict[str, frozenset[int]]] = []
        state: State = self
        while isinstance(state, _Layered):
            layers.append(state.own)
            state = state.below
        found = dict(state)
        for layer in reversed(layers):
            found.update(layer)
        return found


def _flat(state: State) -> dict[str, frozenset[int]]:
    return state.flat() if isinstance(state, _Layered) else dict(state)


class Definitions:
    """Definitions of one tree. `reach` answers for a place, given as a block and an index in it."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._states: dict[tuple[int, int], State | None] = {}
        self._locals: dict[int, frozenset[str]] = {}
        self._globals: dict[int, frozenset[str]] = {}
        self._sites: dict[int, dict[str, frozenset[int]]] = {}
        self._bound: dict[int, list[str]] = {}
        self._dotted: dict[int, list[str]] = {}
        self._raisers: list[list[State]] = []
        self._loops: list[_Jumps] = []
        scopes = [n for n in tree.nodes if n.is_scope]
        for node in tree.nodes:
            self._bound[node.number] = node.facts.bound
            self._dotted[node.number] = node.facts.attributes
        for scope in scopes:
            self._collect(scope)
        self.has_star = any(
            name == "*"
            for node in tree.nodes
            if isinstance(node.syntax, (ast.Import, ast.ImportFrom))
            for name, _ in imported(node.syntax)
        )
        for scope in scopes:
            self._run_scope(scope)

    def bindings(self, node: Node) -> list[str]:
        """Names that the statement's own line binds."""
        return self._bound[node.number]

    def module_sites(self, name: str) -> frozenset[int]:
        """Statements that bind a name at module level."""
        return self._sites[0].get(name, frozenset())

    def local_names(self, scope: Node) -> frozenset[str]:
        """Names that are local to a scope."""
        return self._locals[scope.number]

    def reachable(self, block: Block, index: int) -> bool:
        """Whether control can come to a place."""
        return self._states.get((block.number, index)) is not None

    def reach(self, block: Block, index: int, name: str) -> Reach:
        """What `name` is just before statement `index` of `block`."""
        state = self._states.get((block.number, index))
        if state is None:
            return _ABSENT
        scope = block.owner if block.owner.is_scope else block.owner.scope or self._tree.root
        if "." in name:
            return Reach(state.get(name, frozenset()) - _NOT_BOUND, definite=True, origin="local")
        if name in self._locals[scope.number]:
            found = state.get(name, _NOT_BOUND)
            sites = found - _NOT_BOUND
            if index < len(block.items) and sites and name in block.items[index].facts.certain:
                found = sites  # the statement that follows could not run without it, either
            if sites or scope.number:
                origin = "local" if sites else "none"
                if sites or scope.kind != "class":
                    return Reach(sites, definite=bool(sites) and UNBOUND not in found, origin=origin)
        return self._outer(scope, name)

    def _outer(self, scope: Node, name: str) -> Reach:
        outer = None if name in self._globals[scope.number] else scope.scope
        while outer is not None and outer.number:
            if outer.kind == "def" and name in self._locals[outer.number]:
                return Reach(self._sites[outer.number][name], definite=True, origin="enclosing")
            outer = outer.scope
        if scope.number and name in self._sites[0]:
            return Reach(self._sites[0][name], definite=True, origin="module")
        if name in BUILTINS:
            return _BUILTIN
        return _STAR if self.has_star else _ABSENT

    def _collect(self, scope: Node) -> None:
        """Local names of a scope, and where they are bound."""
        sites: dict[str, set[int]] = {}
        outside: set[str] = set()
        if isinstance(scope.syntax, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for name in parameters(scope.syntax.args):
                sites.setdefault(name, set()).add(scope.number)
        for node in self._tree.nodes[scope.number + 1 : scope.last + 1]:
            if node.scope is not scope:
                continue
            if isinstance(node.syntax, (ast.Global, ast.Nonlocal)):
                outside.update(node.syntax.names)
            for name in self._bound[node.number]:
                sites.setdefault(name, set()).add(node.number)
            for name in _handler_and_case_names(node):
                sites.setdefault(name, set()).add(node.number)
        for name in outside & sites.keys():
            target = self._sites.setdefault(0, {})
            target[name] = target.get(name, frozenset()) | frozenset(sites.pop(name))
        self._locals[scope.number] = frozenset(sites)
        self._globals[scope.number] = frozenset(outside)
        mine = self._sites.setdefault(scope.number, {})
        for name, numbers in sites.items():
            mine[name] = mine.get(name, frozenset()) | frozenset(numbers)

    def _run_scope(self, scope: Node) -> None:
        state: dict[str, frozenset[int]] = {}
        if isinstance(scope.syntax, (ast.FunctionDef, ast.AsyncFunctionDef)):
            here = frozenset({scope.number})
            state = dict.fromkeys(parameters(scope.syntax.args), here)
        self._raisers, self._loops = [], []
        for block in scope.blocks:
            self._block(block, state)

    def _block(self, block: Block, state: State | None) -> State | None:
        for index, item in enumerate(block.items):
            self._states[block.number, index] = state
            if state is not None:
                for raiser in self._raisers:
                    raiser.append(state)
                state = self._statement(item, state)
        self._states[block.number, len(block.items)] = state
        return state

    def _statement(self, node: Node, state: State) -> State | None:
        syntax = node.syntax
        if isinstance(syntax, ast.While):
            return self._loop(node, self._bind(node, state), endless=_is_true(syntax.test))
        if node.kind == "loop":
            return self._loop(node, state, endless=False)
        if isinstance(syntax, ast.If):
            return self._if(node, self._bind(node, state))
        if isinstance(syntax, TRIES):
            return self._try(node, state)
        if isinstance(syntax, WITHS):
            entered = self._bind(node, state)
            after = self._block(node.blocks[0], entered)
            # A context manager that swallows exceptions may leave its body anywhere.
            return _join(after, entered) if _swallows(syntax) else after
        if isinstance(syntax, ast.Match):
            return self._match(node, self._bind(node, state))
        if isinstance(syntax, (ast.Return, ast.Raise)) or self._never_ends(syntax):
            return None
        if isinstance(syntax, (ast.Break, ast.Continue)):
            if self._loops:
                jumps = self._loops[-1]
                (jumps.breaks if isinstance(syntax, ast.Break) else jumps.continues).append(state)
            return None
        if isinstance(syntax, ast.Delete):
            return _Layered.over(state, dict.fromkeys(deleted(syntax), _NOT_BOUND))
        return self._bind(node, state)

    def _never_ends(self, syntax: ast.stmt | ast.Module) -> bool:
        """Whether a statement is one that nothing runs after: `assert False`, `sys.exit()`."""
        if isinstance(syntax, ast.Assert):
            return _is_false(syntax.test)
        call = syntax.value if isinstance(syntax, ast.Expr) else None
        name = dotted(call.func) if isinstance(call, ast.Call) else ""
        if name not in _EXITS:
            return False
        sites = self._sites[0].get(name.partition(".")[0], frozenset())
        return all(isinstance(self._tree.nodes[n].syntax, ast.Import) for n in sites)

    def _bind(self, node: Node, state: State) -> State:
        names, dotted_names = self._bound[node.number], self._dotted[node.number]
        # What a statement could not have run without is bound once it has run.
        proved = [n for n in node.facts.certain if UNBOUND in state.get(n, ()) and len(state[n]) > 1]
        if not names and not dotted_names and not proved:
            return state
        here = frozenset({node.number})
        changed = {name: state[name] - _NOT_BOUND for name in proved}
        changed.update(dict.fromkeys((*names, *dotted_names), here))
        return _Layered.over(state, changed)

    def _if(self, node: Node, state: State) -> State | None:
        after = self._block(node.blocks[0], state)
        other = self._block(node.blocks[1], state) if len(node.blocks) > 1 else state
        return _join(after, other)

    def _loop(self, node: Node, state: State, *, endless: bool) -> State | None:
        body = node.blocks[0]
        jumps = _Jumps()
        entry: State = state
        bind_target = not isinstance(node.syntax, ast.While)
        after: State | None = state
        for _ in range(2):
            self._loops.append(jumps)
            end = self._block(body, self._bind(node, entry) if bind_target else entry)
            self._loops.pop()
            again = _join_all([end, *jumps.continues])
            after = _join(state, again)
            entry = after or state
        done: State | None = None if endless else after
        if len(node.blocks) > 1:
            done = self._block(node.blocks[1], done)
        return _join_all([done, *jumps.breaks])

    def _try(self, node: Node, state: State) -> State | None:
        seen: list[State] = [state]
        self._raisers.append(seen)
        blocks = {role: [b for b in node.blocks if b.role == role] for role in ("body", "handler", "orelse")}
        after = self._block(blocks["body"][0], state)
        self._raisers.pop()
        if after is not None:
            seen.append(after)
        raised = _join_all(list(seen))
        ends: list[State | None] = []
        for block, name in zip(blocks["handler"], _handler_names(node), strict=True):
            entry = raised
            if name and entry is not None:
                entry = {**entry, name: frozenset({node.number})}
            end = self._block(block, entry)
            if name and end is not None:
                end = {**end, name: _NOT_BOUND}
            ends.append(end)
        if blocks["orelse"]:
            after = self._block(blocks["orelse"][0], after)
        done = _join_all([after, *ends])
        final = [b for b in node.blocks if b.role == "finalbody"]
        if not final:
            return done
        # The final block also runs while an exception or a jump passes through.
        end = self._block(final[0], _join_all([done, raised]))
        if done is None or end is None:
            return None
        changed = _flat(done)
        for item in final[0].items:
            for inner in item.walk():
                for name in self._bound[inner.number]:
                    changed[name] = end.get(name, _NOT_BOUND)
        return changed

    def _match(self, node: Node, state: State) -> State | None:
        ends: list[State | None] = []
        exhaustive = False
        assert isinstance(node.syntax, ast.Match)  # for the type checker
        for block, case in zip(node.blocks, node.syntax.cases, strict=True):
            here = frozenset({node.number})
            names = _case_names(case)
            ends.append(self._block(block, {**state, **dict.fromkeys(names, here)}))
            irrefutable = isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None
            exhaustive = exhaustive or (irrefutable and case.guard is None)
        return _join_all(ends if exhaustive else [*ends, state])


def _case_names(case: ast.match_case) -> list[str]:
    return list(stored(case.pattern))


def _handler_names(node: Node) -> list[str]:
    handlers = node.syntax.handlers if isinstance(node.syntax, TRIES) else []
    return [h.name or "" for h in handlers]


def _handler_and_case_names(node: Node) -> list[str]:
    names = [n for n in _handler_names(node) if n]
    if isinstance(node.syntax, ast.Match):
        for case in node.syntax.cases:
            names.extend(_case_names(case))
    return names


def _is_true(test: ast.expr) -> bool:
    return isinstance(test, ast.Constant) and bool(test.value)


def _is_false(test: ast.expr) -> bool:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _is_true(test.operand)
    return isinstance(test, ast.Constant) and not test.value


def _swallows(syntax: ast.With | ast.AsyncWith) -> bool:
    calls = [i.context_expr for i in syntax.items]
    functions = [c.func if isinstance(c, ast.Call) else c for c in calls]
    names = [
        f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else "" for f in functions
    ]
    return any(name in ("suppress", "raises") for name in names)


def _join_all(states: list[State | None]) -> State | None:
    result: State | None = None
    for state in states:
        result = _join(result, state)
    return result


def _join(a: State | None, b: State | None) -> State | None:
    if a is None or b is None:
        return b if a is None else a
    if a is b:
        return a
    a, b = _flat(a), _flat(b)
    joined: dict[str, frozenset[int]] = {}
    for name, sites in a.items():
        others = b.get(name, _NOT_BOUND)
        joined[name] = sites if sites is others or sites == others else sites | others
    for name, sites in b.items():
        if name not in a:
            joined[name] = sites | _NOT_BOUND
    return joined
