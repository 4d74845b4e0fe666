"""What code reaches without naming it plainly: attributes of libraries that it sets, modules by their names, frames.

Pure functions on the standard library's `ast`, for loops and for the functions that they call.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from types import CodeType

from flor_dagster.recording.scopes import parse_file

Chain = tuple[str, ...]
"""A name and attributes: `torch.backends.cudnn.benchmark`."""

ANY = "*"
"""Stands for an attribute whose name is only known when it is set."""

# Attributes and functions by which code gets at names of other code.
_FRAMES = frozenset(
    {"_getframe", "_current_frames", "currentframe", "f_locals", "f_globals", "f_back", "__globals__", "gi_frame"}
)  # fmt: skip
_SETTERS = frozenset({"setattr", "delattr"})

DYNAMIC_NAMES = frozenset({"exec", "eval", "globals", "locals", "vars", "__import__"})
"""Names whose use makes it impossible to say what code binds or reads."""


@dataclass(frozen=True, slots=True)
class Touches:
    """What a piece of code reaches.

    Args:
        set_attributes: what it sets or deletes attributes of, the attribute last.
        by_name: expressions that may be `sys.modules`.
        modules: whether it gets modules by their names.
        frames: what it uses to get at other code's names, empty where it does not.
        imports: local names that it binds to modules.
    """

    set_attributes: frozenset[Chain] = frozenset()
    by_name: frozenset[Chain] = frozenset()
    modules: bool = False
    frames: str = ""
    imports: tuple[tuple[str, str], ...] = ()


NOTHING = Touches()


def touches_of(node: ast.AST) -> Touches:
    """What a piece of code reaches, the functions in it included."""
    stores: set[Chain] = set()
    by_name: set[Chain] = set()
    imports: dict[str, str] = {}
    modules, frames = False, ""
    for inner in ast.walk(node):
        match inner:
            case ast.Attribute(attr=attribute, ctx=ast.Store() | ast.Del()):
                chain = dotted(inner)
                if chain:
                    stores.add(chain)
                frames = frames or (attribute if attribute in _FRAMES else "")
            case ast.Attribute(attr=attribute):
                named = isinstance(inner.value, ast.Name) and inner.value.id in ("builtins", "__builtins__")
                if attribute in _FRAMES or (named and attribute in DYNAMIC_NAMES):
                    frames = frames or attribute
                elif attribute == "modules" and isinstance(inner.value, ast.Name):
                    by_name.add(dotted(inner))
                modules |= attribute == "import_module"
            case ast.Name(id=name):
                if name in _FRAMES:
                    frames = frames or name
                modules |= name == "import_module"
            case ast.Call(func=ast.Name(id=name), args=[owner, attribute, *_]) if name in _SETTERS:
                chain = dotted(owner)
                if chain:
                    text = isinstance(attribute, ast.Constant) and isinstance(attribute.value, str)
                    stores.add((*chain, attribute.value if text else ANY))  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
            case ast.Import(names=aliases):
                for alias in aliases:
                    imports[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            case _:
                pass
    if not (stores or by_name or modules or frames):
        return NOTHING
    return Touches(frozenset(stores), frozenset(by_name), modules, frames, tuple(sorted(imports.items())))


def dotted(node: ast.expr) -> Chain:
    """The parts of a dotted name; empty for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()


@functools.lru_cache(maxsize=4096)
def touches_of_code(code: CodeType) -> Touches:
    """What a function's code reaches, as its source says; nothing where there is no source."""
    return _functions(code.co_filename).get((code.co_name, code.co_firstlineno), NOTHING)


@functools.lru_cache(maxsize=256)
def _functions(file: str) -> dict[tuple[str, int], Touches]:
    """(name, first line) of every function of a file → what it reaches. Two lambdas of one line share theirs."""
    tree = parse_file(file)
    found: dict[tuple[str, int], Touches] = {}
    for node in ast.walk(tree) if tree is not None else ():
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                line = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            case ast.Lambda(lineno=line):
                name = "<lambda>"
            case _:
                continue
        touches = touches_of(node)
        if touches is not NOTHING:
            known = found.get((name, line))
            found[name, line] = touches if known is None else _joined(known, touches)
    return found


def _joined(one: Touches, other: Touches) -> Touches:
    return Touches(
        one.set_attributes | other.set_attributes, one.by_name | other.by_name, one.modules or other.modules,
        one.frames or other.frames, (*one.imports, *other.imports),
    )  # fmt: skip
