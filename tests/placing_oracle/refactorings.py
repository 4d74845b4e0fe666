"""Refactorings of programs with a known effect on the value that the probe logs."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.placing_oracle.programs import HELPERS, is_probe

FIXED = {"LIMIT", "ALWAYS"}
CHANGING = {"bump", "add", "reset", "append"}


@dataclass
class Project:
    """A program: the helpers, functions that were made, and the script, in one file or several."""

    script: list[ast.stmt]
    functions: list[ast.FunctionDef] = field(default_factory=list)
    split: bool = False
    wrapped: bool = False
    keeps: bool = True
    guarded: str = ""
    done: list[str] = field(default_factory=list)

    def copy(self) -> Project:
        return copy.deepcopy(self)

    def files(self, *, probe: bool) -> dict[str, str]:
        project = self if probe else without_probe(self)
        script = "\n".join(ast.unparse(n) for n in project.script) or "pass"
        functions = "\n\n".join(ast.unparse(f) for f in project.functions)
        if project.wrapped:
            body = "\n".join("    " + line for line in script.split("\n"))
            script = f"def main():\n{body}\n\nif __name__ == '__main__':\n    main()"
        head = "import flor_dagster as flor\n"
        if project.split:
            names = "ALWAYS, LIMIT, Meter, Quiet, bump, clip, length, slope"
            made = "".join(f"from parts import {f.name}\n" for f in project.functions)
            files = {"train.py": f"{head}from tools import {names}\n{made}\n{script}\n", "tools.py": HELPERS}
            if project.functions:
                files["parts.py"] = f"{head}from tools import {names}\n\n{functions}\n"
            return files
        return {"train.py": f"{head}{HELPERS}\n{functions}\n\n{script}\n"}


def without_probe(project: Project) -> Project:
    project = project.copy()
    for block in blocks(project):
        block[:] = [n for n in block if not is_probe(n)]
        if not block:
            block.append(ast.Pass())
    return project


def blocks(project: Project) -> list[list[ast.stmt]]:
    found: list[list[ast.stmt]] = [project.script]
    stack: list[ast.AST] = [*project.script, *project.functions]
    found += [f.body for f in project.functions]
    while stack:
        node = stack.pop()
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block:
                if block not in found and not isinstance(node, ast.FunctionDef):
                    found.append(block)
                stack += block
        for handler in getattr(node, "handlers", ()):
            stack += handler.body
    unique: list[list[ast.stmt]] = []
    for block in found:
        if not any(block is b for b in unique):
            unique.append(block)
    return unique


def names(node: ast.AST, *contexts: type) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, contexts)}


def loads(nodes: list[ast.stmt]) -> set[str]:
    found = {n for node in nodes for n in names(node, ast.Load)}
    return found | {
        n.target.id
        for node in nodes
        for n in ast.walk(node)
        if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)
    }


def stores(nodes: list[ast.stmt]) -> set[str]:
    inner = {n for node in nodes for n in names(node, ast.Store)}
    bound = {
        n.id
        for node in nodes
        for c in ast.walk(node)
        if isinstance(c, ast.comprehension)
        for n in ast.walk(c.target)
        if isinstance(n, ast.Name)
    }
    return inner - bound


def holding(project: Project) -> tuple[list[ast.stmt], int] | None:
    """The block with the probe, and its position there."""
    for block in blocks(project):
        for position, node in enumerate(block):
            if is_probe(node):
                return block, position
    return None


KNOWN = {
    "slope",
    "clip",
    "length",
    "bump",
    "Meter",
    "Quiet",
    "sum",
    "len",
    "range",
    "max",
    "abs",
    "list",
    "dict",
    "flor",
    "x",
}


def rename(project: Project, rng: random.Random) -> bool:
    found = stores(project.script) - FIXED
    chosen = rng.sample(sorted(found), min(len(found), rng.randint(1, 3)))
    mapping = {n: f"{n}_{rng.choice(['now', 'cur', 'x'])}" for n in chosen}
    if any(m in found for m in mapping.values()):
        return False
    for root in project.script:
        for node in ast.walk(root):
            if isinstance(node, ast.Name) and node.id in mapping:
                node.id = mapping[node.id]
    return True


def wrap_main(project: Project, _rng: random.Random) -> bool:
    project.wrapped = not project.wrapped
    return True


def split_files(project: Project, _rng: random.Random) -> bool:
    project.split = not project.split
    return True


def wrap_block(project: Project, rng: random.Random) -> bool:
    """A run of statements in `with`, `try` or a condition that always holds."""
    block = rng.choice(blocks(project))
    start = rng.randrange(len(block))
    end = rng.randint(start + 1, min(len(block), start + 4))
    head = rng.choice(
        [
            "with Quiet():\n    pass",
            "try:\n    pass\nexcept ZeroDivisionError:\n    raise",
            "if ALWAYS:\n    pass",
        ]
    )
    node = ast.parse(head).body[0]
    assert isinstance(node, ast.With | ast.Try | ast.If)
    node.body = block[start:end]
    block[start:end] = [node]
    return True


def for_to_while(project: Project, rng: random.Random) -> bool:
    found = [(b, k, n) for b in blocks(project) for k, n in enumerate(b) if isinstance(n, ast.For)]
    rng.shuffle(found)
    for block, position, node in found:
        if not isinstance(node.target, ast.Name) or any(isinstance(n, ast.Return) for n in ast.walk(node)):
            continue
        index = node.target.id
        assert isinstance(node.iter, ast.Call)
        loop = ast.parse(f"while {index} < {ast.unparse(node.iter.args[0])}:\n    pass").body[0]
        assert isinstance(loop, ast.While)
        loop.body = [*node.body, *ast.parse(f"{index} += 1").body]
        block[position : position + 1] = [*ast.parse(f"{index} = 0").body, loop]
        return True
    return False


def swap(project: Project, rng: random.Random) -> bool:
    """Two neighbours that have nothing to do with each other."""
    pairs = [(b, k) for b in blocks(project) for k in range(len(b) - 1)]
    rng.shuffle(pairs)
    for block, k in pairs:
        one, other = block[k], block[k + 1]
        if not all(isinstance(n, ast.Assign | ast.AugAssign | ast.Expr) for n in (one, other)):
            continue
        if touched(one) & (touched(other) | loads([other])) or touched(other) & loads([one]):
            continue
        block[k], block[k + 1] = other, one
        return True
    return False


def touched(node: ast.stmt) -> set[str]:
    """What a simple statement changes."""
    found = stores([node])
    for inner in ast.walk(node):
        if (
            isinstance(inner, ast.Subscript)
            and isinstance(inner.ctx, ast.Store)
            and isinstance(inner.value, ast.Name)
        ):
            found.add(inner.value.id)
        if isinstance(inner, ast.Call):
            called = inner.func.attr if isinstance(inner.func, ast.Attribute) else ast.unparse(inner.func)
            if called in CHANGING:
                found |= names(inner, ast.Load)
    return found


def extract(project: Project, rng: random.Random) -> bool:
    """A run of statements becomes a function."""
    candidates = [b for b in blocks(project) if not any(b is f.body for f in project.functions)]
    for _ in range(8):
        block = rng.choice(candidates)
        start = rng.randrange(len(block))
        end = rng.randint(start + 1, min(len(block), start + 4))
        run = block[start:end]
        made = _function(project, run, f"part{len(project.functions)}")
        if made is None:
            continue
        function, call = made
        project.functions.append(function)
        block[start:end] = call
        return True
    return False


def _function(
    project: Project, run: list[ast.stmt], name: str
) -> tuple[ast.FunctionDef, list[ast.stmt]] | None:
    if any(
        isinstance(n, ast.Break | ast.Continue | ast.Return | ast.FunctionDef)
        for r in run
        for n in ast.walk(r)
    ):
        return None
    if all(is_probe(n) for n in run) or all(isinstance(n, ast.Pass) for n in run):
        return None
    bound = stores(run)
    variables = stores(project.script)
    taken = sorted((loads(run) | bound) & variables & _first_reads(run))
    inside = {id(n) for r in run for n in ast.walk(r)}
    elsewhere = {
        n.id
        for root in project.script
        for n in ast.walk(root)
        if isinstance(n, ast.Name) and id(n) not in inside
    }
    given = sorted(bound & elsewhere)
    certainly = {n for r in run if isinstance(r, ast.Assign) for n in stores([r])} | set(taken)
    if not set(given) <= certainly:
        return None
    text = f"def {name}({', '.join(taken)}):\n    pass"
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = list(run)
    call = f"{name}({', '.join(taken)})"
    if given:
        result = ", ".join(given)
        function.body += ast.parse(f"return ({result})").body if False else [_return(result)]
        call = f"{result} = {call}"
    return function, ast.parse(call).body


def _return(text: str) -> ast.stmt:
    function = ast.parse(f"def f():\n    return {text}").body[0]
    assert isinstance(function, ast.FunctionDef)
    return function.body[0]


def _first_reads(run: list[ast.stmt]) -> set[str]:
    """The names that a run may read before it binds them."""
    bound: set[str] = set()
    found: set[str] = set()
    for node in run:
        if isinstance(node, ast.Assign):
            found |= loads([node]) - bound
            bound |= stores([node])
        elif isinstance(node, ast.For):
            found |= (loads([node]) | stores(node.body)) - bound - names(node.target, ast.Store)
        else:
            found |= (loads([node]) | stores([node])) - bound
    return found


def two_copies(project: Project, rng: random.Random) -> bool:
    """A run is done again elsewhere; the other version has it as one function."""
    place = holding(project)
    if place is None or any(place[0] is f.body for f in project.functions):
        return False
    block, position = place
    start, end = max(0, position - 1), min(len(block), position + 2)
    made = _function(project, block[start:end], "both")
    if made is None:
        return False
    function, call = made
    project.functions.append(function)
    block[start:end] = [*call, *copy.deepcopy(call)]
    return True


def undo_copies(project: Project) -> Project:
    """The program with the function `both` written out at each of its calls."""
    project = project.copy()
    function = next(f for f in project.functions if f.name == "both")
    project.functions.remove(function)
    for block in blocks(project):
        for position in range(len(block) - 1, -1, -1):
            node = block[position]
            value = node.value if isinstance(node, ast.Assign | ast.Expr) else None
            if isinstance(value, ast.Call) and ast.unparse(value.func) == "both":
                body = copy.deepcopy(function.body)
                block[position : position + 1] = [n for n in body if not isinstance(n, ast.Return)]
    return project


def transform(project: Project, rng: random.Random) -> bool:
    """What the probe reads is changed before it: the other version has no such value."""
    place = holding(project)
    assert place is not None
    block, position = place
    read = names(block[position], ast.Load) & stores(project.script)
    numbers = sorted(read - {"w", "g", "d", "u", "meter", "row", "history"})
    vectors = sorted(read & {"w", "g", "d", "u"})
    if numbers:
        name = rng.choice(numbers)
        text = rng.choice([f"{name} = {name} * 3.0", f"{name} = {name} + 7.0", f"{name} *= 3.0"])
    elif vectors:
        name = rng.choice(vectors)
        text = rng.choice(
            [f"{name} = clip({name}, 0.01)", f"{name}[0] = 99.0", f"bump({name}, [1.0, 2.0, 3.0])"]
        )
    elif "meter" in read:
        text = rng.choice(["meter.add(1000.0)", "meter.total = 5.5"])
    elif "row" in read:
        text = "row['more'] = 1000.0"
    else:
        return False
    block[position:position] = ast.parse(text).body
    project.keeps = False
    return True


def merge(project: Project, rng: random.Random) -> bool:
    """The value is made in two steps where the other version has one: what stands between has no counterpart."""
    place = holding(project)
    assert place is not None
    block, position = place
    if position == 0:
        return False
    before = block[position - 1]
    if not (isinstance(before, ast.Assign) and isinstance(before.targets[0], ast.Name)):
        return False
    name = before.targets[0].id
    if name not in names(block[position], ast.Load):
        return False
    value = f"clip({name}, 0.01)" if name in {"g", "d", "u"} else f"abs({name}) * 3.0"
    block.insert(position + 1, ast.parse(f"{name} = {value}").body[0])
    project.keeps = False
    return True


def undo_merge(project: Project) -> Project:
    """The program with both steps in one, the probe behind them."""
    project = project.copy()
    place = holding(project)
    assert place is not None
    block, position = place
    first, second = block[position - 1], block[position + 1]
    assert isinstance(first, ast.Assign)
    assert isinstance(second, ast.Assign)
    name = ast.unparse(first.targets[0])
    inner = first.value

    class Put(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return inner if node.id == name and isinstance(node.ctx, ast.Load) else node

    second.value = Put().visit(second.value)
    block[position - 1 : position + 2] = [second, block[position]]
    return project


def guard(project: Project, *, along: bool) -> None:
    """A condition around the probe; with `along`, around the statement before it, too."""
    place = holding(project)
    assert place is not None
    block, position = place
    start = position - 1 if along and position > 0 else position
    node = ast.parse("if len(history) < 1 and meter.count != 1:\n    pass").body[0]
    assert isinstance(node, ast.If)
    node.body = block[start : position + 1]
    block[start : position + 1] = [node]


Refactoring = Callable[[Project, random.Random], bool]
KEEPING: list[Refactoring] = [
    rename,
    wrap_main,
    split_files,
    wrap_block,
    for_to_while,
    swap,
    extract,
    extract,
]


def pair(script: list[ast.stmt], rng: random.Random) -> tuple[Project, Project]:
    """An old program and a newest one, both with the probe; `keeps` of the newest says whether the old has its value."""
    old, new = Project(script), Project(copy.deepcopy(script))
    special = rng.random()
    if special < 0.12 and transform(new, rng):
        new.done.append("transform")
    elif special < 0.2 and merge(new, rng):
        new.done.append("merge")
        old = undo_merge(new)
        old.done.clear()
    elif special < 0.28 and two_copies(new, rng):
        new.done.append("two_copies")
        old = undo_copies(new)
        old.done.clear()
    for _ in range(rng.randint(1, 4)):
        side = new if rng.random() < 0.6 else old
        step = rng.choice(KEEPING)
        if step(side, rng):
            side.done.append(step.__name__)
    if new.keeps and not new.split and not new.functions and not old.functions and rng.random() < 0.12:
        _guarded(old, new, rng)
    return old, new


def _guarded(old: Project, new: Project, rng: random.Random) -> None:
    """One version has a condition around the statement that the other has not."""
    side = rng.choice([old, new])
    written = {n for root in side.script for n in names(root, ast.Store)}
    if not {"history", "meter"} <= written:
        return
    along = side is old or rng.random() < 0.5
    guard(side, along=along)
    side.done.append("guard")
    new.guarded = "old" if side is old else "along" if along else "alone"
