"""Could evaluating an expression change the training that it observes? A static classification.

It is a list of what is known, not a proof: what is not known to be harmless is `unknown`, and is run under a guard of
the random state. No list is a sandbox.
"""

from __future__ import annotations

import ast
from typing import Literal

from flor_dagster.propagation.names import dotted
from flor_dagster.propagation.tree import parse

Effects = Literal["pure", "unknown", "changes-training", "clock"]

# Methods that change the object, the model or the data stream that they are called on.
_CHANGING = frozenset(
    [
        "append",
        "extend",
        "insert",
        "remove",
        "clear",
        "pop",
        "popitem",
        "setdefault",
        "sort",
        "reverse",
        "add",
        "discard",
        "update",
        "write",
        "writelines",
        "backward",
        "step",
        "zero_grad",
        "train",
        "eval",
        "requires_grad",
        "load_state_dict",
        "register_hook",
        "register_forward_hook",
        "register_buffer",
        "apply",
        "fit",
        "partial_fit",
        "fit_transform",
        "train_on_batch",
        "compile",
        "seed",
        "manual_seed",
        "shuffle",
        "send",
        "throw",
        "close",
        "put",
        "get_nowait",
        "all_reduce",
        "all_gather",
        "reduce_scatter",
        "broadcast",
        "barrier",
        "gather",
        "scatter",
        "reduce",
        "all_to_all",
        "acquire",
        "release",
        "reset",
        "reset_states",
        "reset_parameters",
        "half",
        "cuda_",
        "free",
        "unlink",
        "mkdir",
        "rmdir",
        "save",
        "flush",
    ]
) - {"cuda_", "gather", "scatter", "half"}
_CHANGING_FUNCTIONS = frozenset(
    [
        "next",
        "setattr",
        "delattr",
        "exec",
        "eval",
        "open",
        "input",
        "print",
        "globals",
        "exit",
        "quit",
        "__import__",
    ]
) - {"globals"}
_COLLECTIVE_MODULES = ("dist", "torch.distributed", "distributed", "comm", "MPI", "hvd")
_CLOCK = frozenset(
    [
        "time.time",
        "time.perf_counter",
        "time.monotonic",
        "time.process_time",
        "time.time_ns",
        "time.perf_counter_ns",
        "time.monotonic_ns",
        "datetime.now",
        "datetime.datetime.now",
        "datetime.utcnow",
        "datetime.datetime.utcnow",
        "datetime.today",
        "timeit.default_timer",
        "perf_counter",
        "monotonic",
        "process_time",
        "default_timer",
    ]
)
_PURE_METHODS = frozenset(
    [
        "item",
        "mean",
        "sum",
        "std",
        "var",
        "min",
        "max",
        "norm",
        "numpy",
        "cpu",
        "detach",
        "tolist",
        "float",
        "int",
        "long",
        "double",
        "bool",
        "abs",
        "sqrt",
        "exp",
        "log",
        "log2",
        "log10",
        "pow",
        "argmax",
        "argmin",
        "argsort",
        "topk",
        "size",
        "dim",
        "numel",
        "shape",
        "keys",
        "values",
        "items",
        "get",
        "format",
        "join",
        "strip",
        "split",
        "lower",
        "upper",
        "replace",
        "startswith",
        "endswith",
        "count",
        "index",
        "copy",
        "clone",
        "view",
        "reshape",
        "flatten",
        "squeeze",
        "unsqueeze",
        "transpose",
        "permute",
        "t",
        "to",
        "round",
        "clamp",
        "clip",
        "all",
        "any",
        "eq",
        "ne",
        "gt",
        "lt",
        "ge",
        "le",
        "dot",
        "matmul",
        "mm",
        "bmm",
        "median",
        "quantile",
        "cumsum",
        "prod",
        "nonzero",
        "isnan",
        "isfinite",
        "isinf",
        "unique",
        "histc",
        "bincount",
        "softmax",
        "log_softmax",
        "sigmoid",
        "tanh",
        "relu",
        "parameters",
        "named_parameters",
        "buffers",
        "named_buffers",
        "children",
        "modules",
        "named_modules",
        "state_dict",
        "get_last_lr",
        "element_size",
        "nelement",
        "data_ptr",
        "ndim",
        "dtype",
        "contiguous",
        "expand",
        "repeat",
        "type_as",
        "astype",
        "allclose",
        "array_equal",
        "linalg",
        "diagonal",
        "trace",
        "det",
        "logsumexp",
        "relu",
        "total_seconds",
        "isoformat",
        "nbytes",
        "most_common",
        "union",
        "intersection",
        "difference",
        "issubset",
        "hexdigest",
        "as_integer_ratio",
        "is_integer",
        "hex",
        "bit_length",
        "real",
        "imag",
        "conjugate",
        "rstrip",
        "lstrip",
        "title",
        "encode",
        "decode",
        "ravel",
        "ptp",
        "searchsorted",
        "take",
        "cosine_similarity",
        "pairwise_distance",
        "mse_loss",
        "l1_loss",
        "get_lr",
        "score_samples",
        "numpy_function",
    ]
) - {"score_samples", "numpy_function"}
_PURE_FUNCTIONS = frozenset(
    [
        "abs",
        "all",
        "any",
        "bin",
        "bool",
        "bytes",
        "chr",
        "complex",
        "dict",
        "divmod",
        "enumerate",
        "filter",
        "float",
        "format",
        "frozenset",
        "getattr",
        "hasattr",
        "hash",
        "hex",
        "id",
        "int",
        "isinstance",
        "issubclass",
        "iter",
        "len",
        "list",
        "map",
        "max",
        "min",
        "oct",
        "ord",
        "pow",
        "range",
        "repr",
        "reversed",
        "round",
        "set",
        "slice",
        "sorted",
        "str",
        "sum",
        "tuple",
        "type",
        "zip",
        "vars",
        "dir",
        "callable",
    ]
) - {"iter"}
_PURE_MODULES = frozenset(
    [
        "np",
        "numpy",
        "math",
        "torch",
        "jnp",
        "statistics",
        "F",
        "functional",
        "operator",
        "itertools",
        "functools",
        "tf",
        "K",
    ]
)
_IMPURE_PARTS = frozenset(
    [
        "random",
        "rand",
        "randn",
        "randint",
        "randperm",
        "normal",
        "uniform",
        "choice",
        "permutation",
        "shuffle",
        "seed",
        "manual_seed",
        "bernoulli",
        "multinomial",
        "poisson",
        "rand_like",
        "randn_like",
        "randint_like",
        "dropout",
        "save",
        "load",
        "empty",
        "set_grad_enabled",
        "set_rng_state",
        "set_default_dtype",
        "backward",
        "distributed",
    ]
)


def classify_effects(expression_source: str) -> Effects:
    """Classify what evaluating an expression could do to the training around it.

    Args:
        expression_source: An expression, or statements, as Python source.

    Returns:
        `changes-training` for what is known to change state (in-place methods, `next`, `backward`, assignment
        expressions, `await`, collectives), `clock` for wall-clock readings, which no replay can give again, `pure`
        where every call is known to be harmless, else `unknown`.

    Raises:
        SourceSyntaxError: the text is no Python.
    """
    return classify(parse(expression_source.strip(), "expression"))


def classify(*nodes: ast.AST) -> Effects:
    """Classify parsed code; the worst part decides."""
    worst: Effects = "pure"
    for root in nodes:
        for node in ast.walk(root):
            kind = _one(node)
            if kind == "changes-training":
                return kind
            if kind == "clock" or (kind == "unknown" and worst == "pure"):
                worst = kind
    return worst


def classify_function(function: ast.FunctionDef) -> Effects:
    """Classify what calling a function could do to its caller; what it makes itself it may change."""
    given = {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}
    own = {
        n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    } - given
    worst: Effects = "pure"
    for node in ast.walk(function):
        kind = _one(node)
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            kind = "changes-training"
        elif isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            kind = "pure" if _root(node) in own else "changes-training"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _root(node.func) in own:
            kind = "unknown" if kind == "changes-training" else kind
        if kind == "changes-training":
            return kind
        if kind == "clock" or (kind == "unknown" and worst == "pure"):
            worst = kind
    return worst


def _root(node: ast.AST) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _one(node: ast.AST) -> Effects:
    if isinstance(node, (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)):
        return "changes-training"
    return _call(node) if isinstance(node, ast.Call) else "pure"


def _call(call: ast.Call) -> Effects:
    function = call.func
    name = dotted(function)
    if name in _CLOCK:
        return "clock"
    if isinstance(function, ast.Name):
        if function.id in _CHANGING_FUNCTIONS:
            return "changes-training"
        return "pure" if function.id in _PURE_FUNCTIONS else "unknown"
    if not isinstance(function, ast.Attribute):
        return "unknown"
    root, _, rest = name.partition(".")
    parts = rest.split(".")
    if root in _PURE_MODULES and rest:
        if any(part in _IMPURE_PARTS for part in parts):
            changes = "distributed" in parts or parts[-1] in ("seed", "manual_seed", "save", "backward")
            return "changes-training" if changes else "unknown"
        return "changes-training" if _in_place(function.attr) else "pure"
    if name.rpartition(".")[0] in _COLLECTIVE_MODULES:
        return "unknown" if function.attr.startswith(("get_", "is_")) else "changes-training"
    if function.attr in _CHANGING or _in_place(function.attr):
        return "changes-training"
    return "pure" if function.attr in _PURE_METHODS else "unknown"


def _in_place(method: str) -> bool:
    """`add_`, `clamp_`: the convention for methods that work in place."""
    return method.endswith("_") and not method.endswith("__") and not method.startswith("_")
