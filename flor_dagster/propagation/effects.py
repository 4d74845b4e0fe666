"""Could evaluating an expression change the training that it observes? A static classification.

It is a list of what is known, not a proof: what is not known to be harmless is `unknown`, and is run under a guard of
the random state. No list is a sandbox.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Literal

from flor_dagster.propagation import effect_names as known
from flor_dagster.propagation.names import dotted
from flor_dagster.propagation.syntax import parse

Effects = Literal["pure", "unknown", "changes-training", "clock"]

_CHANGING_SYNTAX = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal)


def classify_effects(expression_source: str) -> Effects:
    """Classify what evaluating an expression could do to the training around it.

    Args:
        expression_source: An expression, or statements, as Python source.

    Returns:
        `changes-training` for what is known to change state (in-place methods, `next`, `backward`, assignment
        expressions, `await`, collectives), `clock` for readings of clock and machine, which no replay can give again,
        `pure` where every call is known to be harmless, else `unknown`.

    Raises:
        SourceSyntaxError: the text is no Python.
    """
    return classify(parse(expression_source.strip(), "expression"))


def is_plain(expression_source: str) -> bool:
    """Whether evaluating an expression only reads names and constants, so that no code of anybody's runs."""
    plain = (
        ast.Expression,
        ast.Module,
        ast.Expr,
        ast.Name,
        ast.Constant,
        ast.Tuple,
        ast.List,
        ast.expr_context,
    )
    return all(isinstance(node, plain) for node in ast.walk(parse(expression_source.strip(), "expression")))


def classify(*nodes: ast.AST) -> Effects:
    """Classify parsed code; the worst part decides."""
    return classify_unit(n for root in nodes for n in ast.walk(root))


def classify_unit(nodes: Iterable[ast.AST]) -> Effects:
    """Classify what a whole unit evaluates, given node by node; what it binds itself it may change."""
    found = list(nodes)
    grown = {id(n.target) for n in found if isinstance(n, ast.AugAssign)}
    own = {
        n.id for n in found if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and id(n) not in grown
    }
    return _worst(found, own)


def classify_function(function: ast.FunctionDef) -> Effects:
    """Classify what calling a function could do to its caller; what it makes itself it may change."""
    given = {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}
    own = {
        n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    } - given
    return _worst([n for part in function.body for n in ast.walk(part)], own)


def waits_for_ranks(nodes: Iterable[ast.AST]) -> bool:
    """Whether code calls something that every rank of a distributed training must call."""
    return any(_called(n) in known.COLLECTIVES for n in nodes if isinstance(n, ast.Call))


def is_rank_test(test: ast.AST) -> bool:
    """Whether a condition lets only some ranks through."""
    names = (
        n.id if isinstance(n, ast.Name) else n.attr
        for n in ast.walk(test)
        if isinstance(n, (ast.Name, ast.Attribute))
    )
    return any(known.RANK_TEST.search(name) for name in names)


def _worst(nodes: list[ast.AST], own: set[str]) -> Effects:
    """The worst of some code that may do with its `own` names what it likes."""
    worst: Effects = "pure"
    for node in nodes:
        kind = _one(node, own)
        if kind == "changes-training":
            return kind
        if kind == "clock" or (kind == "unknown" and worst == "pure"):
            worst = kind
    return worst


def _one(node: ast.AST, own: set[str]) -> Effects:
    if isinstance(node, _CHANGING_SYNTAX):
        return "changes-training"
    if isinstance(node, (ast.Attribute, ast.Subscript, ast.Name)) and not isinstance(node.ctx, ast.Load):
        return "pure" if _root(node) in own else "changes-training"
    if isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
        return _iterated(node.iter)
    if isinstance(node, ast.Starred):
        return _iterated(node.value)
    if not isinstance(node, ast.Call):
        return "pure"
    kind = _call(node)
    # Its own list may grow; what `unknown` code does elsewhere is not its own.
    return "unknown" if kind == "changes-training" and _is_own_method(node, own) else kind


def _is_own_method(call: ast.Call, own: set[str]) -> bool:
    return isinstance(call.func, ast.Attribute) and _root(call.func) in own


def _root(node: ast.AST) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _iterated(node: ast.AST) -> Effects:
    """Going through something: what can be gone through once is used up."""
    name = dotted(node).rpartition(".")[2]
    if name and known.STREAMS.search(name):
        return "changes-training"
    return "unknown" if name.lower().endswith("loader") else "pure"


def _call(call: ast.Call) -> Effects:
    if any(_writes(k) for k in call.keywords):
        return "changes-training"
    function, name = call.func, dotted(call.func)
    if name and known.CLOCK.match(name):
        return "clock"
    if isinstance(function, ast.Name):
        return _function(call, function.id)
    if not isinstance(function, ast.Attribute):
        return "unknown"
    owner = name.rpartition(".")[0]
    if owner in known.COLLECTIVE_MODULES and not function.attr.startswith(("get_", "is_")):
        return "changes-training" if function.attr in known.IN_PLACE_COLLECTIVES else "unknown"
    root = name.partition(".")[0]
    if root in known.CHANGING_MODULES:
        return "changes-training"
    if root in known.SYSTEM_MODULES:
        return "pure" if known.SYSTEM_READS.match(name) else "changes-training"
    if root in known.PURE_MODULES and owner:
        return _module_function(call, name)
    return _method(call, function, owner)


def _writes(keyword: ast.keyword) -> bool:
    """`out=`, `inplace=True`, `generator=`: arguments that make a function write into something."""
    if keyword.arg in ("out", "generator", "rng"):
        return not (isinstance(keyword.value, ast.Constant) and keyword.value.value is None)
    off = isinstance(keyword.value, ast.Constant) and not keyword.value.value
    return keyword.arg in ("inplace", "in_place") and not off


def _function(call: ast.Call, name: str) -> Effects:
    if name == "open":
        return _open(call)
    if name in known.CHANGING_FUNCTIONS or name in known.IN_PLACE_COLLECTIVES:
        return "changes-training"
    if name in known.CALLING:
        return _calling(call)
    if name not in known.PURE_FUNCTIONS:
        return "unknown"
    for argument in call.args:
        if _iterated(argument) != "pure" and name not in (
            "len",
            "type",
            "isinstance",
            "id",
            "repr",
            "str",
            "hasattr",
            "getattr",
            "callable",
            "bool",
            "hash",
        ):
            return _iterated(argument)
    return "pure"


def _open(call: ast.Call) -> Effects:
    mode = (
        call.args[1]
        if len(call.args) > 1
        else next((k.value for k in call.keywords if k.arg == "mode"), None)
    )
    if mode is None:
        return "unknown"
    reads = (
        isinstance(mode, ast.Constant) and isinstance(mode.value, str) and not set(mode.value) & set("wax+")
    )
    return "unknown" if reads else "changes-training"


def _calling(call: ast.Call) -> Effects:
    """A function that calls what it is given: as harmless as that."""
    given = [*call.args[:1], *(k.value for k in call.keywords if k.arg in ("key", "func", "function"))]
    kinds = [_iterated(argument) for argument in call.args]
    is_key = _called(call) in ("sorted", "min", "max")
    for argument in given[1:] if is_key and call.args else given:
        if isinstance(argument, ast.Lambda) or (
            isinstance(argument, ast.Constant) and argument.value is None
        ):
            continue
        plain = isinstance(argument, (ast.Name, ast.Attribute))
        kinds.append(_call(ast.Call(argument, [], [])) if plain else "unknown")
    if "changes-training" in kinds:
        return "changes-training"
    return "pure" if all(kind == "pure" for kind in kinds) else "unknown"


def _module_function(call: ast.Call, name: str) -> Effects:
    """A function of a module that mostly computes."""
    *parts, last = name.split(".")
    if last in known.CHANGING_MODULE_FUNCTIONS or _in_place(last) or last.startswith("set_") or last == "at":
        return "changes-training"
    if last in known.COLLECTIVES:
        return "changes-training"
    if last in known.CALLING:
        return _calling(call)
    if last in known.IMPURE_FUNCTIONS or last[:1].isupper():
        return "unknown"
    inner = parts[1:]
    return "pure" if last in known.HARMLESS or all(p in known.PURE_PARTS for p in inner) else "unknown"


def _method(call: ast.Call, function: ast.Attribute, owner: str) -> Effects:
    name = function.attr
    last = owner.rpartition(".")[2]
    if name == "read" and call.args and isinstance(getattr(call.args[0], "value", None), str):
        return "unknown"  # a member of an archive; a file is read on from where it was
    if name in known.CHANGING_METHODS or _in_place(name) or name in known.IN_PLACE_COLLECTIVES:
        return "changes-training"
    if name in known.DRAWING_METHODS and owner:
        return "unknown" if owner in ("random", "np.random", "numpy.random") else "changes-training"
    if name in known.CONVERTING and known.MODELS.match(last):
        return "changes-training"
    if name == "get" and not call.args:
        return "changes-training"  # a queue's; a mapping is given a key
    if name == "log":
        return "unknown" if call.args or known.LOGGERS.match(last) else "pure"
    return "pure" if name in known.PURE_METHODS else "unknown"


def _in_place(method: str) -> bool:
    """`add_`, `clamp_`: the convention for methods that work in place."""
    return method.endswith("_") and not method.endswith("__") and not method.startswith("_")
