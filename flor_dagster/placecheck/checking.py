"""Compare the place of a statement in an old version with where it stands in the newest."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from flor_dagster.placecheck.comparing import Comparison, Finding
from flor_dagster.placecheck.events import Trace, is_volatile, last_name, tied
from flor_dagster.placecheck.histories import history
from flor_dagster.placecheck.model import PlaceVerdict, Spot
from flor_dagster.placecheck.program import Function, Module, Program, Sources, parse, walk
from flor_dagster.placecheck.standing import (
    BUILTINS,
    Path,
    Standing,
    added_statements,
    holds,
    pair_reads,
    path_of,
    stand,
)
from flor_dagster.placecheck.tracing import TooMuch, Tracer, locals_of

_MOST_TRIES = 3


def check_place(new: Sources, old: Sources, placed: Sources, statement: Spot, place: Spot) -> PlaceVerdict:
    """Return what is to be thought of `place`, the statement's place in `placed`.

    Args:
        new: The newest version, in which `statement` stands.
        old: The old version as it was recorded.
        placed: The old version with the added lines.
        statement: The statement in the newest version.
        place: The statement in the old version with the added lines.
    """
    try:
        return _checked(new, old, placed, statement, place)
    except RecursionError:
        return PlaceVerdict("likely", ("the program is nested too deeply to be followed",))
    except TooMuch:
        return PlaceVerdict("likely", ("the program is too large to be followed",))
    except (SyntaxError, ValueError, KeyError):
        return PlaceVerdict("likely", ("a file can't be read as Python",))


@dataclass(frozen=True, slots=True)
class _Side:
    program: Program
    standing: Standing
    around: tuple[tuple[Module, Function | None], ...]


def _checked(new: Sources, old: Sources, placed: Sources, statement: Spot, place: Spot) -> PlaceVerdict:
    if place.file not in placed or place.file not in old or statement.file not in new:
        return PlaceVerdict("likely", ("a file that the statement stands in can't be read",))
    theirs = Program(placed, (place.file, statement.file))
    ours = Program(new, (statement.file, place.file))
    module, target = ours.module(statement.file), theirs.module(place.file)
    if module is None or target is None:
        return PlaceVerdict("likely", ("a file can't be read as Python",))
    added = added_statements(parse(place.file, old[place.file]).tree, target.tree, place.lines)
    if added is None:
        return PlaceVerdict("contradicted", ("more than added lines differs from the old version",))
    found = stand(module, statement.lines, target, place.lines, added)
    if found is None:
        return PlaceVerdict("likely", ("no statement was found where one should stand",))
    mine, other = found
    sides = (
        _Side(ours, mine, tuple(_around(ours, mine))),
        _Side(theirs, other, tuple(_around(theirs, other))),
    )
    verdict: PlaceVerdict | None = None
    for at_new, at_old in _pairs(*sides):
        verdict = _verdict(_compare(*sides, at_new, at_old))
        if verdict.verdict != "likely":
            return verdict
    return verdict or PlaceVerdict(
        "likely", ("the functions that the statement stands in can't be told to be the same",)
    )


def _verdict(findings: list[Finding]) -> PlaceVerdict:
    denied = tuple(dict.fromkeys(f.reason for f in findings if f.verdict == "contradicted"))
    if denied:
        return PlaceVerdict("contradicted", denied)
    doubts = tuple(dict.fromkeys(f.reason for f in findings))
    return PlaceVerdict("likely", doubts) if doubts else PlaceVerdict("certain")


def _around(program: Program, standing: Standing) -> Iterator[tuple[Module, Function | None]]:
    """The function that the statement stands in, its only caller, and so on, at last the file."""
    inner = [f for f in standing.module.functions.values() if holds(f.node, standing.star)]
    function = max(inner, key=lambda f: f.qualname.count("."), default=None)
    module, seen = standing.module, set[str]()
    while True:
        yield module, function
        if function is None or function.qualname in seen:
            return
        seen.add(function.qualname)
        callers = _callers(program, function)
        if len(callers) != 1:
            return
        module, function = callers[0]


def _callers(program: Program, function: Function) -> list[tuple[Module, Function | None]]:
    name = function.name
    if name == "__init__" and function.owner is not None:
        name = function.owner.rsplit(".", 1)[-1]
    found: list[tuple[Module, Function | None]] = []
    for module in program.loaded():
        for caller in _calls_by_name(module).get(name, ()):
            if (module, caller) not in found and caller is not function:
                found.append((module, caller))
    return found


def _calls_by_name(module: Module) -> dict[str, list[Function | None]]:
    """Who calls what in a file, by the last part of what is called."""
    if module.callers is None:
        module.callers = {}
        nodes = {id(f.node): f for f in module.functions.values()}
        for call in module.calls:
            above = module.above.get(id(call))
            while above is not None and id(above) not in nodes:
                above = module.above.get(id(above))
            caller = nodes[id(above)] if above is not None else None
            module.callers.setdefault(last_name(call.func), []).append(caller)
    return module.callers


def _pairs(new: _Side, old: _Side) -> list[tuple[int, int]]:
    """The functions, or files, from which on both versions may be followed: the innermost first."""
    known_new, known_old = _function_names(new.program), _function_names(old.program)
    found: list[tuple[int, int]] = []
    for i, (_, ours) in enumerate(new.around):
        for j, (_, theirs) in enumerate(old.around):
            if ours is None or theirs is None:
                same = ours is theirs
            elif ours.qualname == theirs.qualname:
                same = True
            else:
                same = ours.name not in known_old and theirs.name not in known_new and i == j == 0
            if same:
                found.append((i, j))
    found.sort(key=sum)
    if not found:
        tops = new.around[-1][1], old.around[-1][1]
        if None in tops:
            found.append((len(new.around) - 1, len(old.around) - 1))
    return found[:_MOST_TRIES]


def _function_names(program: Program) -> frozenset[str]:
    return frozenset(f.name for m in program.loaded() for f in m.functions.values())


def _compare(new: _Side, old: _Side, at_new: int, at_old: int) -> list[Finding]:
    ours, theirs = _trace(new, old, at_new), _trace(old, new, at_old)
    value = new.standing.value
    gradients = any(isinstance(n, ast.Attribute) and "grad" in n.attr for n in walk(value))
    comparison = Comparison(ours, theirs, gradients=gradients)
    if ours.star is None or theirs.star is None:
        comparison.doubt("how the program comes to the statement can't be followed")
        return comparison.findings
    if ours.stars != theirs.stars:
        comparison.doubt("the statement is reached from more places in one version than in the other")
    reads = pair_reads(new.standing, old.standing)
    if reads.differs is not None:
        comparison.doubt(f"the expression is another: {reads.differs}")
    pairs = [*reads.pairs, *((p, p) for p in _through_calls(new, old))]
    for mine, other in dict.fromkeys(pairs):
        if not (_is_variable(new, mine[0], ours) and _is_variable(old, other[0], theirs)):
            _fixed(mine, other, new, old, comparison)
            continue
        before = history(ours, (*ours.resolve(mine[0]), *mine[1:]))
        after = history(theirs, (*theirs.resolve(other[0]), *other[1:]))
        comparison.histories(".".join(mine), before, after)
        made = before.before[-1].callee if before.before else "call"
        if made.startswith("call"):
            _compare_tied(mine[0], other[0], ours, theirs, comparison)
    comparison.blocks()
    comparison.jumps()
    if is_volatile(value):
        comparison.neighbours()
    return comparison.findings


def _compare_tied(mine: str, other: str, ours: Trace, theirs: Trace, comparison: Comparison) -> None:
    at_new, at_old = tied(ours, mine), tied(theirs, other)
    comparison.tied(
        [ours.events[k] for k in at_new],
        [theirs.events[k] for k in at_old],
        sum(k < (ours.star or 0) for k in at_new),
        sum(k < (theirs.star or 0) for k in at_old),
    )


def _through_calls(new: _Side, old: _Side) -> Iterator[Path]:
    """What the repository's functions read that the statement calls: names of their file, attributes of the object."""
    for side in (new, old):
        module = side.standing.module
        above = next((f for _, f in side.around), None)
        for node in walk(side.standing.value):
            if not isinstance(node, ast.Call):
                continue
            function, receiver = None, None
            if isinstance(node.func, ast.Name):
                function = side.program.function(module, node.func.id)
            elif isinstance(node.func, ast.Attribute) and above is not None and above.owner is not None:
                receiver = path_of(node.func.value)
                if receiver == ("self",):
                    function = side.program.method(module, above.owner, node.func.attr)
            if function is not None and module.path == function.path:
                yield from _read_by(function, module, receiver)


def _read_by(function: Function, module: Module, receiver: Path | None) -> Iterator[Path]:
    fixed = {*locals_of(function.node), *BUILTINS, *module.functions, *module.classes, *module.imports}
    own = function.node.args.args[0].arg if receiver and function.node.args.args else None
    for node in walk(function.node):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == own:
            if f"{function.owner}.{node.attr}" not in module.functions:
                yield ("self", node.attr)
        elif isinstance(node, ast.Name) and node.id not in fixed:
            yield (node.id,)


def _is_variable(side: _Side, name: str, trace: Trace) -> bool:
    path = trace.resolve(name)
    if not path[0].startswith("g."):
        return True
    module = side.standing.module
    if name in BUILTINS or name in module.imports or name in module.classes or name in module.functions:
        return any(e.kind == "def" and e.path == path for e in trace.events)
    return True


def _fixed(mine: Path, other: Path, new: _Side, old: _Side, comparison: Comparison) -> None:
    """A name that no statement assigns: a function, an import, something of Python's own."""
    if mine == other or old.standing.module.imports.get(other[0]) == new.standing.module.imports.get(mine[0]):
        return
    comparison.doubt(f"`{'.'.join(mine)}` stands as `{'.'.join(other)}`")


def _trace(side: _Side, other: _Side, at: int) -> Trace:
    toward = {f for _, f in side.around[:at] if f is not None}
    named = _function_names(other.program)
    module, function = side.around[at]
    return Tracer(side.program, side.standing, lambda f: f in toward or f.name not in named).run(
        module, function
    )
