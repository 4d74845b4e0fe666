"""What happens in a program, one after another: definitions, stores, calls, jumps, and the blocks that they stand in."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from flor_dagster.placecheck.program import walk
from flor_dagster.placecheck.standing import Path

FrameKind = Literal["loop", "arm", "with", "try", "handler", "call"]
EventKind = Literal["def", "store", "call", "jump"]

WRAPPERS = frozenset({"enumerate", "tqdm", "trange", "iter", "track", "loop", "log_every", "progress_bar"})
SAME_VALUE = frozenset(
    {"item", "cpu", "detach", "to", "float", "cuda", "numpy", "clone", "tolist", "double", "int"}
)
HARMLESS = frozenset(
    [
        "print",
        "len",
        "str",
        "float",
        "int",
        "bool",
        "list",
        "tuple",
        "dict",
        "set",
        "sorted",
        "isinstance",
        "type",
        "repr",
        "range",
        "zip",
        "enumerate",
        "min",
        "max",
        "sum",
        "abs",
        "round",
        "format",
        "info",
        "debug",
        "warning",
        "warn",
        "error",
        "exception",
        "log",
        "write",
        "writelines",
        "add_scalar",
        "add_scalars",
        "add_image",
        "add_histogram",
        "logkv",
        "record",
        "join",
        "keys",
        "values",
        "items",
        "get",
        "mean",
        "std",
        "size",
        "dim",
        "numel",
        "item",
        "cpu",
        "detach",
        "numpy",
        "tolist",
        "norm",
        "eval",
        "train",
        "parameters",
        "named_parameters",
        "state_dict",
        "copy",
        "deepcopy",
        "clone",
        "flush",
        "set_description",
        "set_postfix",
        "barrier",
        "synchronize",
        "makedirs",
        "save",
        "dump",
        "dumps",
        "exists",
        "get_last_lr",
        "hasattr",
        "getattr",
        "callable",
        "id",
        "argmax",
        "any",
        "all",
        "view",
        "reshape",
        "float_",
        "startswith",
        "endswith",
        "close",
        "add_figure",
        "add_text",
        "log_metric",
        "log_metrics",
        "print0",
        "backward",
        "seed",
        "requires_grad",
        "append",
        "extend",
    ]
)
"""Calls that change nothing of what is passed to them; those on the object itself are told by `MUTATORS`."""
MUTATORS = frozenset(
    [
        "append",
        "extend",
        "insert",
        "pop",
        "popleft",
        "remove",
        "clear",
        "update",
        "add",
        "discard",
        "sort",
        "reverse",
        "setdefault",
        "step",
        "next",
    ]
)


@dataclass(slots=True, eq=False)
class Frame:
    """A block that something stands in; `label` is its header, `group` the `if` whose arm it is."""

    kind: FrameKind
    label: str
    node: ast.AST
    names: frozenset[str] = frozenset()
    loop_name: str | None = None
    group: int = 0
    arm: int = 0
    arms: int = 0


@dataclass(slots=True, eq=False)
class Event:
    """Something that happens to what `path` names. `copy` says that nothing does: it becomes another name of that.

    `given` marks a call that only gets what `path` names as an argument.
    """

    kind: EventKind
    path: Path
    exact: str
    shape: str
    callee: str
    names: frozenset[str]
    context: tuple[Frame, ...]
    copy: Path | None = None
    reads_itself: bool = False
    strong: bool = True
    given: bool = False

    @property
    def in_place(self) -> bool:
        """Whether a definition is an augmented assignment, which changes arrays in place."""
        return self.callee.endswith("=") or "= " in self.exact[:12]


@dataclass(slots=True)
class Trace:
    """What happens in a program from the top of one function or file on, and where in it the statement stands.

    A statement in a function that is called twice stands at two places; `looking_at` goes through them.
    """

    events: list[Event] = field(default_factory=list[Event])
    frames: list[Frame] = field(default_factory=list[Frame])
    stars: list[tuple[int, tuple[Frame, ...], Callable[[str], Path]]] = field(
        default_factory=list[tuple[int, tuple[Frame, ...], Callable[[str], Path]]]
    )
    looking_at: int = 0

    @property
    def star(self) -> int:
        """The number of events before the statement."""
        return self.stars[self.looking_at][0]

    @property
    def context(self) -> tuple[Frame, ...]:
        """The blocks around the statement."""
        return self.stars[self.looking_at][1]

    def resolve(self, name: str) -> Path:
        """What a plain name means where the statement stands."""
        return self.stars[self.looking_at][2](name)


def unwrapped(node: ast.expr) -> tuple[str | None, ast.expr]:
    """What a `for` goes through without what only watches or names it, and the name of its loop."""
    name = None
    while isinstance(node, ast.Call) and node.args and last_name(node.func) in WRAPPERS:
        if last_name(node.func) == "loop" and len(node.args) > 1:
            first = node.args[0]
            name = str(first.value) if isinstance(first, ast.Constant) else name
            node = node.args[1]
        else:
            node = node.args[0]
    return name, node


def last_name(node: ast.AST) -> str:
    """The last part of what is called."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def core(node: ast.AST) -> ast.AST:
    """An expression without conversions that keep its value."""
    while True:
        if isinstance(node, ast.Await | ast.Starred):
            node = node.value
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in SAME_VALUE
        ):
            node = node.func.value
        else:
            return node


def outer_call(node: ast.AST | None, variable: Callable[[str], bool]) -> str:
    """What an expression is at its outside: the function that it calls, or its operator; empty for names and constants."""
    if node is None:
        return ""
    node = core(node)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and variable(node.func.id):
            return "call()"
        return f"call {last_name(node.func)}"
    if isinstance(node, ast.BinOp):
        return f"op {type(node.op).__name__}"
    if isinstance(node, ast.Subscript):
        return "subscript"
    return type(node).__name__ if not isinstance(node, ast.Name | ast.Constant | ast.Attribute) else ""


def spelled(node: ast.AST, variable: Callable[[str], bool] | None) -> str:
    """An expression as a text; with `variable`, without the names of variables, so that renaming keeps it."""
    if isinstance(node, ast.Name):
        return "_" if variable is not None and variable(node.id) else node.id
    if isinstance(node, ast.Constant):
        return repr(node.value)
    if isinstance(node, ast.Attribute):
        return f"{spelled(node.value, variable)}.{node.attr}"
    if isinstance(node, ast.Call):
        given = [spelled(a, variable) for a in node.args]
        given += [f"{k.arg}={spelled(k.value, variable)}" for k in node.keywords]
        return f"{spelled(node.func, variable)}({','.join(given)})"
    if isinstance(node, ast.operator | ast.cmpop | ast.unaryop | ast.boolop):
        return type(node).__name__
    if isinstance(node, ast.expr_context):
        return ""
    inner = [spelled(c, variable) for c in ast.iter_child_nodes(node)]
    return f"{type(node).__name__}({','.join(t for t in inner if t)})"


VOLATILE = frozenset(
    [
        "time",
        "perf_counter",
        "monotonic",
        "process_time",
        "time_ns",
        "now",
        "random",
        "rand",
        "randn",
        "randint",
        "sample",
        "choice",
        "next",
        "input",
        "memory_allocated",
        "max_memory_allocated",
        "get_rng_state",
        "getstate",
        "randperm",
        "uniform",
        "normal",
    ]
)


def is_volatile(node: ast.AST) -> bool:
    """Whether an expression asks for what changes by itself: the clock, random numbers, memory."""
    return any(isinstance(n, ast.Call) and last_name(n.func) in VOLATILE for n in walk(node))


def tied(trace: Trace, name: str) -> list[int]:
    """The positions of calls on objects that were made of the one of that name: `opt.step()` changes a model."""
    names = {name}
    for _ in range(2):
        for event in trace.events:
            if event.kind == "def" and event.names & names and _holds_on(event.callee):
                names.add(event.path[-1].split(".", 1)[-1])
    names.discard(name)
    return [
        k
        for k, e in enumerate(trace.events)
        if e.kind == "call" and e.strong and not e.given and e.path[-1].split(".", 1)[-1] in names
    ]


def _holds_on(callee: str) -> bool:
    made = callee.removeprefix("call ")
    return made != callee and (
        made[:1].isupper() or any(w in made for w in ("optim", "sched", "wrap", "prepare", "compile", "ema"))
    )


def names_in(node: ast.AST | None) -> frozenset[str]:
    """The plain names in an expression."""
    return frozenset(n.id for n in walk(node) if isinstance(n, ast.Name)) if node is not None else frozenset()
