"""Compare the place of a statement in an old version with where it stands in the newest."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from flor_dagster.placecheck.comparing import Comparison, Finding
from flor_dagster.placecheck.events import Trace, is_volatile, last_name, spelled, tied
from flor_dagster.placecheck.histories import history
from flor_dagster.placecheck.model import PlaceVerdict, Spot
from flor_dagster.placecheck.program import Function, Module, Program, Sources, children, parse, walk
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
_MOST_STARS = 4
_ALIKE = 0.5


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
    found: list[tuple[int, int]] = []
    for i, (_, ours) in enumerate(new.around):
        for j, (_, theirs) in enumerate(old.around):
            if (ours is theirs) if ours is None or theirs is None else ours.qualname == theirs.qualname:
                found.append((i, j))
    found.sort(key=sum)
    if (0, 0) not in found and _renamed(new, old):
        found.insert(0, (0, 0))
    if found:
        return found[:_MOST_TRIES]
    (_, ours), (_, theirs) = new.around[-1], old.around[-1]
    if ours is None or theirs is None:
        callers = [_callers(side.program, f) for side, f in ((new, ours), (old, theirs)) if f is not None]
        return [(len(new.around) - 1, len(old.around) - 1)] if not any(callers) else []
    return []


def _renamed(new: _Side, old: _Side) -> bool:
    """Whether the innermost functions are one that has got another name: neither name is known to the other version."""
    ours, theirs = new.around[0][1], old.around[0][1]
    if ours is None or theirs is None:
        return False
    if ours.name in _function_names(old.program) or theirs.name in _function_names(new.program):
        return False
    calls = [
        sum(len(_calls_by_name(m).get(f.name, ())) for m in side.program.loaded())
        for side, f in ((new, ours), (old, theirs))
    ]
    return calls[0] == calls[1] and _alike(ours, theirs)


def _alike(ours: Function, theirs: Function) -> bool:
    """Whether two functions do much the same: they call and store the same."""
    mine, other = _content(ours), _content(theirs)
    return sum((mine & other).values()) * 2 >= _ALIKE * (sum(mine.values()) + sum(other.values()))


@lru_cache(maxsize=256)
def _content(function: Function) -> Counter[str]:
    """What a function calls, reads and stores, without what it logs."""
    found: Counter[str] = Counter()
    stack: list[ast.AST] = list(function.node.body)
    while stack:
        node = stack.pop()
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and last_name(node.value.func) == "log"
        ):
            continue
        if isinstance(node, ast.Call | ast.Attribute):
            found[last_name(node.func) if isinstance(node, ast.Call) else node.attr] += 1
        stack += children(node)
    return found


def _function_names(program: Program) -> frozenset[str]:
    return frozenset(f.name for m in program.loaded() for f in m.functions.values())


def _compare(new: _Side, old: _Side, at_new: int, at_old: int) -> list[Finding]:
    ours, theirs = _trace(new, old, at_new), _trace(old, new, at_old)
    value = new.standing.value
    gradients = any(isinstance(n, ast.Attribute) and "grad" in n.attr for n in walk(value))
    comparison = Comparison(ours, theirs, gradients=gradients)
    if not ours.stars or not theirs.stars:
        comparison.doubt("how the program comes to the statement can't be followed")
        return comparison.findings
    if len(ours.stars) != len(theirs.stars) or len(ours.stars) > _MOST_STARS:
        comparison.doubt("the statement is reached from more places in one version than in the other")
    _moved(new, old, at_new, at_old, comparison)
    reads = pair_reads(new.standing, old.standing)
    if reads.differs is not None:
        comparison.doubt(f"the expression is another: {reads.differs}")
    pairs = list(dict.fromkeys([*reads.pairs, *((p, p) for p in _through_calls(new, old))]))
    for number in range(min(len(ours.stars), len(theirs.stars), _MOST_STARS)):
        ours.looking_at = theirs.looking_at = number
        _compare_at(new, old, pairs, comparison, top=old.around[at_old][1] is None)
    ours_in, theirs_in = new.around[at_new][1], old.around[at_old][1]
    if ours_in is not None and theirs_in is not None and ours_in.qualname != theirs_in.qualname:
        _only_one(new, old, comparison)
    return comparison.findings


def _moved(new: _Side, old: _Side, at_new: int, at_old: int, comparison: Comparison) -> None:
    """A function that both versions have must be around the statement in both, or in none."""
    inside_new = {f.qualname: f for _, f in new.around[: at_new + 1] if f is not None}
    inside_old = {f.qualname: f for _, f in old.around[: at_old + 1] if f is not None}
    for name in sorted(inside_new.keys() - inside_old.keys()):
        if _has(old.program, inside_new[name]):
            comparison.doubt(f"it stands in `{name}` in the newest version, not in that of the old one")
    for name in sorted(inside_old.keys() - inside_new.keys()):
        if _has(new.program, inside_old[name]):
            comparison.doubt(f"it stands in `{name}` in the old version, not in that of the newest one")
    (file_new, top_new), (file_old, top_old) = new.around[at_new], old.around[at_old]
    other_file = top_new is None and top_old is None and file_new.path != file_old.path
    if other_file and (new.program.module(file_old.path) or old.program.module(file_new.path)):
        comparison.doubt(f"it stands in `{file_old.path}`, another file than in the newest version")


def _only_one(new: _Side, old: _Side, comparison: Comparison) -> None:
    """Where a function has another name, what makes the value must not stand elsewhere, too."""
    for mine, other in comparison.followed:
        if mine.kind != "def" or not other.exact:
            continue
        count_new, count_old = (
            sum(spelled(node, None) == event.exact for m in side.program.loaded() for node in m.assigned)
            for side, event in ((new, mine), (old, other))
        )
        if count_old > count_new:
            comparison.doubt(
                f"`{other.exact}` stands {count_old} times in the old version, {count_new} in the newest"
            )


def _has(program: Program, function: Function) -> bool:
    """Whether a version has a function, too: of the same name, and doing much the same."""
    found = (m.functions.get(function.qualname) for m in program.loaded())
    return any(f is not None and _alike(f, function) for f in found)


def _compare_at(
    new: _Side, old: _Side, pairs: list[tuple[Path, Path]], comparison: Comparison, *, top: bool
) -> None:
    ours, theirs = comparison.new, comparison.old
    for mine, other in pairs:
        if not (_is_variable(new, mine[0], ours) and _is_variable(old, other[0], theirs)):
            _fixed(mine, other, new, old, comparison)
            continue
        before = history(ours, (*ours.resolve(mine[0]), *mine[1:]))
        after = history(theirs, (*theirs.resolve(other[0]), *other[1:]))
        unmade = before.entry is not None and not before.before
        if (
            not unmade
            and after.entry is not None
            and not after.before
            and not _is_known(old, after.entry, top=top)
        ):
            comparison.deny(f"`{'.'.join(other)}` is not defined there")
            continue
        comparison.histories(".".join(mine), before, after)
        made = before.before[-1] if before.before else None
        if made is None or made.kind != "def" or made.callee.startswith("call"):
            _compare_tied(mine[0], other[0], ours, theirs, comparison)
    comparison.blocks()
    comparison.jumps()
    if is_volatile(new.standing.value):
        comparison.neighbours()


def _is_known(side: _Side, path: Path, *, top: bool) -> bool:
    """Whether a name that nothing in a trace defines before the statement can have a value there."""
    scope, name = path[0].split(".", 1)
    if scope == "g":
        module = side.standing.module
        return (name in module.names and not top) or "*" in module.imports
    tops = [f for _, f in side.around if f is not None]
    parameters = {a.arg for f in tops for a in walk(f.node.args) if isinstance(a, ast.arg)}
    return name in parameters or "<" in name


def _compare_tied(mine: str, other: str, ours: Trace, theirs: Trace, comparison: Comparison) -> None:
    at_new, at_old = tied(ours, mine), tied(theirs, other)
    comparison.tied(
        [ours.events[k] for k in at_new],
        [theirs.events[k] for k in at_old],
        sum(k < ours.star for k in at_new),
        sum(k < theirs.star for k in at_old),
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
    fixed |= {n.id for n in walk(function.node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    fixed |= {n.arg for n in walk(function.node) if isinstance(n, ast.arg)}
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
    named: dict[str, list[Function]] = {}
    for f in (f for m in other.program.loaded() for f in m.functions.values()):
        named.setdefault(f.name, []).append(f)

    def inline(called: Function) -> bool:
        return called in toward or not any(_alike(called, f) for f in named.get(called.name, ()))

    return Tracer(side.program, side.standing, inline).run(*side.around[at])
