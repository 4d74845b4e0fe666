"""What the code of a `SystemExit` was that nothing has seen, told from the sources: only Python 3.11 needs it.

There the interpreter drops the exception before any hook of Python's runs. Known is the instruction that the script
itself had come to, and what the sources raise.
"""

from __future__ import annotations

import ast
import contextlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from flor_dagster.recording.scopes import source_line

UNKNOWN = object()
MOST_FILES = 500


def code_by_hand(main: FrameType | None, leave: object) -> Any:
    """The code of a SystemExit that was raised by hand.

    Args:
        main: the script's own frame, which is over.
        leave: `sys.exit` as it was before it was watched: a script may have imported it by name.

    Returns:
        None or the code; where several codes are possible that all mean a failure, all of them as a text; `UNKNOWN`
        where it may have been one or the other.
    """
    if main is None:
        return None
    text = source_line(main.f_code.co_filename, main.f_lineno or 0).strip()
    with contextlib.suppress(SyntaxError, ValueError):
        (statement,) = ast.parse(text).body
        codes = list(_codes(statement, _names_of(main.f_globals, leave), main.f_globals))
        if codes:
            return codes[0]
    return _only_one([code for module in _own_modules() for code in _codes_in(module, leave)])


def _only_one(codes: list[Any]) -> Any:
    if not codes or UNKNOWN in codes:
        return UNKNOWN
    if all(code in (None, 0) for code in codes):
        return None
    if any(code in (None, 0) for code in codes):
        return UNKNOWN
    return codes[0] if len(set(codes)) == 1 else " or ".join(dict.fromkeys(map(str, codes)))


def _codes(tree: ast.AST, names: frozenset[str], values: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """The codes of what raises a SystemExit by hand in some code, or leaves by a `sys.exit` that nobody watches.

    Args:
        tree: the code.
        names: what `sys.exit` is called there, besides `sys.exit`.
        values: what names mean there, where that is known.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Raise(exc=ast.Name(id="SystemExit")):
                yield None
            case ast.Raise(exc=ast.Call(func=ast.Name(id="SystemExit")) as call):
                yield _argument(call, values or {})
            case ast.Call(func=ast.Name(id=name)) if name in names:
                yield _argument(node, values or {})
            case _:
                pass


def _argument(call: ast.Call, values: Mapping[str, Any]) -> Any:
    match call.args:
        case []:
            return None
        case [ast.Constant(value=value)]:
            return value
        case [ast.Name(id=name)]:
            return values.get(name, UNKNOWN)
        case _:
            return UNKNOWN


def _names_of(namespace: dict[str, Any], leave: object) -> frozenset[str]:
    return frozenset(name for name, value in list(namespace.items()) if value is leave)


def _codes_in(module: ModuleType, leave: object) -> Iterator[Any]:
    names = _names_of(vars(module), leave)
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        text = Path(str(module.__file__)).read_bytes()
        if names or b"SystemExit" in text:
            yield from _codes(ast.parse(text), names)


def _own_modules() -> Iterator[ModuleType]:
    """Modules that were not installed: the script's own code."""
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    ours = str(Path(__file__).parents[1])
    taken = 0
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py") or taken == MOST_FILES:
            continue
        if file.startswith((*installed, ours)) or "site-packages" in file or "dist-packages" in file:
            continue
        taken += 1
        yield module
