"""Which libraries may be loaded before an old version runs? Only those that it would load first thing itself, unchanged."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from flor_dagster.parsing import parse_python

# Large libraries whose import neither reads the working directory or the arguments nor starts anything. Whether one
# draws random numbers or starts threads is looked at by the worker each time.
SAFE = (
    "numpy",
    "scipy",
    "pandas",
    "sklearn",
    "torch",
    "torchvision",
    "joblib",
    "PIL",
    "tqdm",
    "einops",
    "safetensors",
)

# Who mentions these before a library is imported may change what its import does.
_SETTINGS = frozenset(
    {"putenv", "unsetenv", "load_dotenv", "setdlopenflags", "reload", "meta_path", "path_hooks"}
)


def preloadable(sources: Mapping[str, str]) -> tuple[str, ...] | None:
    """The libraries that a warm worker may have imported before it runs these sources.

    Args:
        sources: file → text of the files that the run loaded.

    Returns:
        Their names, sorted; None where the code must start in a fresh interpreter: it sets environment variables or
        import machinery that a library may look at while it is imported, or has modules of a library's own name.
    """
    own = {part for file in sources for part in (file.partition("/")[0].removesuffix(".py"), _stem(file))}
    found: set[str] = set()
    for file in sorted(sources):
        try:
            tree = parse_python(sources[file])
        except (SyntaxError, ValueError):
            return None
        if any(_sets_the_stage(node) for node in ast.walk(tree)):
            return None
        found |= {name for name in _imported_at_once(tree.body) if name.partition(".")[0] in SAFE}
    if {name.partition(".")[0] for name in found} & own:
        return None
    return tuple(sorted(found))


def _stem(file: str) -> str:
    return file.rpartition("/")[2].removesuffix(".py")


def _imported_at_once(body: list[ast.stmt]) -> Iterator[str]:
    """What a module imports unconditionally."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _sets_the_stage(node: ast.AST) -> bool:
    """Whether a piece of code changes what an import would see: the environment, or Python's own machinery."""
    if isinstance(node, ast.Attribute | ast.Name):
        name = node.attr if isinstance(node, ast.Attribute) else node.id
        if name in _SETTINGS:
            return True
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        return _is_environ(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("update", "setdefault", "pop", "clear", "__setitem__") and _is_environ(
            node.func.value
        )
    if isinstance(node, ast.Assign | ast.AugAssign):
        # `env = os.environ`: what is done with it later can't be seen here.
        return (isinstance(node, ast.AugAssign) and _is_environ(node.target)) or _is_environ(node.value)
    return False


def _is_environ(node: ast.AST | None) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "environ") or (
        isinstance(node, ast.Name) and node.id == "environ"
    )
