"""Which names hold a value of the clock, the process or the machine? What no replay can give again is not compared.

From the source alone, scope by scope, name by name: `t0`, `meter.start` and `history['time']` are names of their own here. A container
that such a value is put into holds one; a function that returns one gives one.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Container, Iterable, Iterator

# Calls whose result depends on the clock, the process or the machine.
CLOCK_NAMES = frozenset(
    {
        "time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time", "now",
        "utcnow", "today", "getpid", "getppid", "gethostname", "uuid1", "uuid4", "getrusage", "virtual_memory", "memory_info",
        "memory_allocated", "max_memory_allocated", "cpu_percent", "elapsed_time", "process_time_ns", "thread_time",
        "default_timer", "ctime", "getloadavg", "memory_reserved", "max_memory_reserved",
    }
)  # fmt: skip

# What the interpreter was started with and a replay is not: it has a command line of its own. Other options are given back.
_OF_PROCESS = frozenset(
    {
        "sys.orig_argv", "sys.dont_write_bytecode", "sys.flags.dont_write_bytecode", "sys.flags.safe_path",
        "sys.flags.hash_randomization", "sys.flags.interactive", "sys.flags.inspect",
    }
)  # fmt: skip

# Functions and methods that give on what they are given. Others may do anything with it (a generator that is seeded with the
# clock gives numbers that must be compared), so what they return does not count as a value of the clock.
_PASSING = frozenset(
    {
        "round", "int", "float", "str", "repr", "abs", "max", "min", "sum", "sorted", "divmod", "format", "list", "tuple", "dict",
        "set", "bool", "timedelta", "fromtimestamp", "mean", "median", "join", "array", "asarray", "strftime", "reversed", "zip",
        "enumerate", "basename",
    }
)  # fmt: skip

# Methods that give something of their object: a file whose name holds the process's number gives another content.
_GIVING = frozenset(
    {
        "pop", "popleft", "get", "copy", "total_seconds", "isoformat", "strftime", "timestamp", "mean", "sum", "max", "min", "item",
        "tolist", "values", "items", "replace", "astype", "std", "median", "format", "split", "strip", "as_integer_ratio",
    }
)  # fmt: skip

# Methods that put what they are given into their object.
_FILLING = frozenset(
    {
        "append", "appendleft", "extend", "insert", "add", "update", "put", "push", "record", "observe", "set", "setdefault",
    }
)  # fmt: skip

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_CALL = "()"
_SELF = ("self.", "cls.")

Tainted = frozenset[str] | set[str]


def expression_is_tainted(value: ast.expr, tainted: Tainted) -> bool:
    """Whether an expression reads the clock, the process or the machine, or a name that holds such a value.

    Args:
        value: the expression.
        tainted: names, as `tainted_in` gives them.
    """
    match value:
        case ast.Name():
            return value.id in tainted
        case (
            ast.Attribute(value=inner)
            | ast.Subscript(value=inner)
            | ast.Starred(value=inner)
            | ast.Await(value=inner)
        ):
            chain = chain_of(value)
            return chain in tainted or chain in _OF_PROCESS or expression_is_tainted(inner, tainted)
        case ast.Call(func=function, args=arguments):
            called = _called_name(function)
            if called in CLOCK_NAMES or called + _CALL in tainted:
                return True
            if (
                isinstance(function, ast.Attribute)
                and called in _GIVING
                and expression_is_tainted(function.value, tainted)
            ):
                return True
            given = (*arguments, *(k.value for k in value.keywords)) if called in _PASSING else ()
            return any(expression_is_tainted(one, tainted) for one in given)
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
            own = set(tainted)
            for generator in value.generators:
                if expression_is_tainted(generator.iter, own):
                    _mark(generator.target, own)
            return expression_is_tainted(value.elt, own)
        case ast.Dict():
            parts = value.values
        case (
            ast.BinOp()
            | ast.UnaryOp()
            | ast.BoolOp()
            | ast.Compare()
            | ast.IfExp()
            | ast.JoinedStr()
            | ast.FormattedValue()
        ):
            parts = [part for part in ast.iter_child_nodes(value) if isinstance(part, ast.expr)]
        case ast.Tuple() | ast.List() | ast.Set():
            parts = value.elts
        case ast.NamedExpr():
            parts = [value.value]
        case _:
            return False
    return any(expression_is_tainted(part, tainted) for part in parts)


def tainted_in(scope: ast.AST, before: Tainted = frozenset()) -> set[str]:
    """The names of one scope (a module, a function) that hold such values.

    Args:
        scope: the module or function; what nested functions do with their own names does not count.
        before: what is known already, of the scopes around it.
    """
    tainted = set(before)
    nodes = list(_own_nodes(scope))
    size = -1
    while size != len(tainted):
        size = len(tainted)
        for node in nodes:
            _flow(node, tainted)
    return tainted


def scopes_of(tree: ast.Module) -> Iterator[tuple[ast.AST, set[str]]]:
    """Every scope of a file with the names that hold such values there."""
    yield from ((scope, tainted) for scope, tainted in _scopes(tree))


def tainted_calls(tree: ast.Module) -> set[int]:
    """The lines of calls whose arguments, but for the first, hold such values: `flor.log("seconds", time.time() - t0)`."""
    return {
        node.lineno
        for scope, tainted in scopes_of(tree)
        for node in _own_nodes(scope)
        if isinstance(node, ast.Call) and any(expression_is_tainted(a, tainted) for a in node.args[1:])
    }


def tainted_names_at(tree: ast.Module, lines: Container[int], called: str) -> list[str]:
    """What a statement on some lines logs of the clock, the process or the machine: names, or the calls; empty where nothing.

    Args:
        tree: the file.
        lines: the statement's.
        called: the name of the function that it hands its value to (`log`).
    """
    found: dict[str, None] = {}
    for scope, tainted in scopes_of(tree):
        for node in _own_nodes(scope):
            if not (
                isinstance(node, ast.Call) and node.lineno in lines and _called_name(node.func) == called
            ):
                continue
            for value in (*node.args[1:], *(k.value for k in node.keywords)):
                found |= dict.fromkeys(_tainted_parts(value, tainted))
    return list(found)


def _tainted_parts(value: ast.expr, tainted: Tainted) -> Iterator[str]:
    inner = {id(node.value) for node in ast.walk(value) if isinstance(node, ast.Attribute | ast.Subscript)}
    for node in ast.walk(value):
        if isinstance(node, ast.Call):
            called = _called_name(node.func)
            if called in CLOCK_NAMES or called + _CALL in tainted:
                yield ast.unparse(node)
        elif isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            chain = chain_of(node)
            parts = (f"{chain}.", f"{chain}[")
            # The whole of something of which a part is such a value.
            whole = id(node) not in inner and any(name.startswith(parts) for name in tainted)
            if chain and (chain in tainted or chain in _OF_PROCESS or whole):
                yield chain


def tainted_branches(tree: ast.Module) -> list[int]:
    """The lines of branches on such values that decide over more than what is printed."""
    found = {
        node.lineno
        for scope, tainted in scopes_of(tree)
        for node in _own_nodes(scope)
        if isinstance(node, ast.If | ast.While | ast.IfExp)
        and expression_is_tainted(node.test, tainted)
        and (isinstance(node, ast.IfExp) or _decides([*node.body, *node.orelse], tainted))
    }
    return sorted(found)


def _decides(body: list[ast.stmt], tainted: Tainted) -> bool:
    """Whether statements do more than call functions (print, a logger) and take the time again."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(
                node, ast.Break | ast.Continue | ast.Return | ast.Raise | ast.AugAssign | ast.Delete
            ):
                return True
            if isinstance(node, ast.Assign) and not expression_is_tainted(node.value, tainted):
                return True
            if isinstance(node, ast.Call) and _called_name(node.func) in ("log", "backward", "step", "save"):
                return True
    return False


def chain_of(node: ast.AST) -> str:
    """`meter.start`, `history['time']`, `t0`; of other subscripts the container; empty where it is no name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        around = chain_of(node.value)
        return f"{around}.{node.attr}" if around else ""
    if isinstance(node, ast.Subscript):
        around = chain_of(node.value)
        key = node.slice
        named = isinstance(key, ast.Constant) and isinstance(key.value, str)
        return f"{around}[{key.value!r}]" if around and named else around  # pyright: ignore[reportAttributeAccessIssue]
    return ""


def _flow(node: ast.AST, tainted: set[str]) -> None:
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                _bind(target, value, tainted)
        case (
            ast.AnnAssign(target=target, value=ast.expr() as value)
            | ast.AugAssign(target=target, value=value)
        ):
            _bind(target, value, tainted)
        case ast.NamedExpr(target=target, value=value):
            _bind(target, value, tainted)
        case ast.For(target=target, iter=iterated) if expression_is_tainted(iterated, tainted):
            _mark(target, tainted)
        case ast.Call(func=ast.Attribute(value=owner, attr=method), args=arguments) if method in _FILLING:
            chain = chain_of(owner)
            if chain not in ("", "self", "cls") and any(expression_is_tainted(a, tainted) for a in arguments):
                tainted.add(chain)
        case _:
            pass


def _bind(target: ast.expr, value: ast.expr, tainted: set[str]) -> None:
    chain = chain_of(target)
    if isinstance(value, ast.Dict) and chain and all(isinstance(k, ast.Constant) for k in value.keys):
        for key, item in zip(value.keys, value.values, strict=True):
            if expression_is_tainted(item, tainted):
                tainted.add(f"{chain}[{ast.literal_eval(key)!r}]" if key is not None else chain)
        return
    if isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
        starred = any(isinstance(e, ast.Starred) for e in (*target.elts, *value.elts))
        if not starred and len(target.elts) == len(value.elts):
            for one, item in zip(target.elts, value.elts, strict=True):
                _bind(one, item, tainted)
            return
    if expression_is_tainted(value, tainted):
        _mark(target, tainted)


def _mark(target: ast.expr, tainted: set[str]) -> None:
    if isinstance(target, ast.Tuple | ast.List):
        for one in target.elts:
            _mark(one, tainted)
    elif isinstance(target, ast.Starred):
        _mark(target.value, tainted)
    else:
        chain = chain_of(target)
        if chain not in ("", "self", "cls"):
            tainted.add(chain)


@functools.lru_cache(maxsize=64)
def _scopes(tree: ast.Module) -> list[tuple[ast.AST, set[str]]]:
    """All scopes together: what a function returns, is given, or keeps in `self`, others may have."""
    functions = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
    shared: set[str] = set()
    given: dict[str, set[str]] = {}
    while True:
        before = len(shared), sum(map(len, given.values()))
        top = tainted_in(tree, shared)
        found: list[tuple[ast.AST, set[str]]] = [(tree, top)]
        for function in functions:
            parameters = {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}
            own = parameters | {
                n.id for n in _own_nodes(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
            known = {name for name in top if _root(name) not in own or name.startswith(_SELF)}
            inside = tainted_in(function, known | given.get(function.name, set()))
            found.append((function, inside))
            shared |= {name for name in inside if name.startswith(_SELF)}
            returned = (
                n.value for n in _own_nodes(function) if isinstance(n, ast.Return) and n.value is not None
            )
            if any(expression_is_tainted(value, inside) for value in returned):
                shared.add(function.name + _CALL)
        by_name = {function.name: function for function in functions}
        for scope, tainted in found:
            _hand_over(scope, tainted, by_name, given)
        if before == (len(shared), sum(map(len, given.values()))):
            return found


def _hand_over(
    scope: ast.AST,
    tainted: Tainted,
    functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef],
    given: dict[str, set[str]],
) -> None:
    """Which parameters are given such values."""
    for node in _own_nodes(scope):
        if not isinstance(node, ast.Call):
            continue
        name = _called_name(node.func)
        function = functions.get(name)
        if function is None:
            continue
        names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
        if isinstance(node.func, ast.Attribute) and names[:1] in (["self"], ["cls"]):
            del names[0]
        pairs = [*zip(names, node.args, strict=False), *((k.arg, k.value) for k in node.keywords if k.arg)]
        marked = {n for n, value in pairs if expression_is_tainted(value, tainted)}
        if marked:
            given.setdefault(name, set()).update(marked)


def tainted_names(tree: ast.Module, scope: ast.AST) -> frozenset[str]:
    """The plain names of a scope that hold such values, or have them under a key.

    An object that only has one as an attribute is not among them: it may be the model, which must be compared.
    """
    found = next((tainted for one, tainted in _scopes(tree) if one is scope), set[str]())
    return frozenset(
        _root(name) for name in found if name.isidentifier() or (name.endswith("]") and "." not in name)
    )


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    stack: list[ast.AST] = list(_body(scope))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, _SCOPES):
            stack.extend(ast.iter_child_nodes(node))


def _body(scope: ast.AST) -> Iterable[ast.AST]:
    return (
        scope.body
        if isinstance(scope, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef)
        else ast.iter_child_nodes(scope)
    )


def _root(chain: str) -> str:
    return chain.partition(".")[0].partition("[")[0]


def _called_name(func: ast.expr) -> str:
    if isinstance(func, ast.Name):
        return func.id
    return func.attr if isinstance(func, ast.Attribute) else ""
