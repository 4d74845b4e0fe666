"""What Python objects are made of: attributes, slots, hidden C state, names that find them again."""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import gc
import hashlib
import struct
import sys
import threading
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any

from flor_dagster.recording.scopes import parse_file

MISSING: Any = object()

CONTAINERS: tuple[type, ...] = (dict, list, set, frozenset, tuple, deque, defaultdict, OrderedDict)

# Built-in bases whose instances hold nothing beside what is captured of them.
_TRANSPARENT: frozenset[Any] = frozenset(
    {object, *CONTAINERS, BaseException, types.SimpleNamespace, threading.local}
)

CACHE: Any = type(functools.lru_cache(id))
"""The type of `functools.lru_cache`'s functions."""

_HEAP = 1 << 9
_POINTER = struct.calcsize("P")

# As dis names them: what imports a module, what reads a name outside a code object's own locals.
_IMPORTS = frozenset({"IMPORT_NAME"})
_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})


def type_name(kind: type) -> str:
    """Module and qualified name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


@functools.lru_cache(maxsize=4096)
def is_plain(kind: type) -> bool:
    """Whether instances hold nothing but attributes, slots and a built-in container: no state hidden in C."""
    return all(
        base in _TRANSPARENT or _same_as_transparent(base) or _made_in_python(base) for base in kind.__mro__
    ) and (
        kind.__dictoffset__ != 0
        or any(slot_names(base) for base in kind.__mro__)
        or any(base in CONTAINERS or base is threading.local for base in kind.__mro__)
        or any(_empty_slots(base) for base in kind.__mro__)
    )


def _same_as_transparent(base: type) -> bool:
    """Built-in exceptions without fields of their own."""
    return (
        issubclass(base, BaseException)
        and not base.__flags__ & _HEAP
        and base.__basicsize__ == BaseException.__basicsize__
    )


def _empty_slots(base: type) -> bool:
    return "__slots__" in vars(base)


def _made_in_python(kind: type) -> bool:
    """Whether a `class` statement made the type: its size is that of its base and its own slots, nothing more."""
    if not kind.__flags__ & _HEAP or kind.__base__ is None:
        return False
    base = kind.__base__
    grown = kind.__basicsize__ - base.__basicsize__
    own = sum(_POINTER for _ in slot_names(kind))
    extra = 0
    if kind.__dictoffset__ != 0 and base.__dictoffset__ == 0:
        extra += _POINTER
    if kind.__weakrefoffset__ != 0 and base.__weakrefoffset__ == 0:
        extra += _POINTER
    return own <= grown <= own + extra


def slot_names(base: type) -> list[str]:
    """The names of the slots that a class itself adds, mangled as Python does."""
    slots = vars(base).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    mangled = base.__name__.lstrip("_")
    return [
        f"_{mangled}{n}" if n.startswith("__") and not n.endswith("__") else n
        for n in names
        if n not in ("__dict__", "__weakref__")
    ]


@functools.lru_cache(maxsize=4096)
def all_slots(kind: type) -> tuple[str, ...]:
    """The names of the slots of a class and its bases."""
    return tuple(name for base in kind.__mro__ for name in slot_names(base))


def is_slot(kind: type, name: str) -> bool:
    """Whether an attribute lives in a slot."""
    return name in all_slots(kind)


def own_dict(value: Any) -> dict[str, Any]:
    """An object's real `__dict__`, whatever its class says of attributes; empty where it has none."""
    if isinstance(value, threading.local):
        return value.__dict__  # this thread's
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def has_dict(value: Any) -> bool:
    """Whether an object takes attributes of any name."""
    return type(value).__dictoffset__ != 0 or isinstance(value, threading.local)


def attributes_of(value: Any) -> dict[str, Any]:
    """Slots and `__dict__` of an object; an exception's arguments too, by the name `args`."""
    attributes: dict[str, Any] = {}
    kind = type(value)
    for name in all_slots(kind):
        try:
            attributes[name] = object.__getattribute__(value, name)
        except AttributeError:
            continue
    attributes.update(own_dict(value))
    if issubclass(kind, BaseException):
        attributes["args"] = value.args
    return attributes


def functions_in(item: Any) -> list[types.FunctionType]:
    """The functions behind a static method, class method, property or cached property; a function itself."""
    if isinstance(item, types.FunctionType):
        return [item]
    if isinstance(item, staticmethod | classmethod):
        found: list[Any] = [item.__func__]
    elif isinstance(item, property):
        found = [item.fget, item.fset, item.fdel]
    elif isinstance(item, functools.cached_property):
        found = [item.func]
    else:
        return []
    return [f for f in found if isinstance(f, types.FunctionType)]


def is_machinery(key: str, item: Any) -> bool:
    """Whether a class attribute is Python's own doing, or bound to change with nothing."""
    descriptors = types.GetSetDescriptorType | types.MemberDescriptorType | types.WrapperDescriptorType
    if isinstance(item, descriptors | types.BuiltinFunctionType) or key == "_abc_impl":
        return True
    # A class's special methods are functions like others; its other dunder names are Python's.
    return key.startswith("__") and key.endswith("__") and not isinstance(item, types.FunctionType)


def code_names(code: types.CodeType) -> set[str]:
    """Every name that a code object, or one nested in it, reads or writes outside its own locals."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= code_names(constant)
    return names


@functools.lru_cache(maxsize=4096)
def called_by_name(code: types.CodeType, names: frozenset[str]) -> frozenset[str]:
    """Which of some names a code object, or one nested in it, reads as names: `eval(text)`, and not `model.eval()`."""
    found: frozenset[str] = frozenset()
    if not names.isdisjoint(code.co_names):
        found = frozenset(str(i.argval) for i in dis.get_instructions(code) if i.opname in _READS) & names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= called_by_name(constant, names)
    return found


@functools.lru_cache(maxsize=4096)
def code_imports(code: types.CodeType) -> frozenset[str]:
    """The modules that a code object, or one nested in it, imports, as written; relative ones without their dots."""
    found = {str(i.argval) for i in dis.get_instructions(code) if i.opname in _IMPORTS}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= code_imports(constant)
    return frozenset(found)


# Functions by name ---------------------------------------------------------------------------------------------------


def function_name(function: types.FunctionType) -> str:
    """A name that only this function's code has in its module.

    Several lambdas, or several definitions of one name, are told apart by a digest of what they do; a function whose
    name is unique keeps it also where a replay adds lines to it.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    code = function.__code__
    if (
        function.__qualname__ != code.co_qualname
        or _definitions(code.co_filename).get(code.co_qualname, 2) > 1
    ):
        return f"{name}@{_code_digest(code)}"
    return name


@functools.lru_cache(maxsize=512)
def _definitions(file: str) -> dict[str, int]:
    """Qualified name → how often a file defines a function of it. Lambdas count as many."""
    tree = parse_file(file)
    counts: dict[str, int] = {}
    stack: list[tuple[ast.AST, str]] = [(tree, "")] if tree is not None else []
    while stack:
        node, prefix = stack.pop()
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = prefix + child.name
                counts[name] = counts.get(name, 0) + 1
                inner = f"{name}." if isinstance(child, ast.ClassDef) else f"{name}.<locals>."
            stack.append((child, inner))
    return counts


@functools.lru_cache(maxsize=4096)
def _code_digest(code: types.CodeType) -> str:
    hasher = hashlib.blake2b(digest_size=8)

    def add(part: types.CodeType) -> None:
        constants = [c for c in part.co_consts if not isinstance(c, types.CodeType)]
        hasher.update(part.co_code)
        hasher.update(repr((part.co_names, part.co_varnames, part.co_freevars, part.co_argcount)).encode())
        hasher.update(
            repr([sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in constants]).encode(
                errors="replace"
            )
        )
        for constant in part.co_consts:
            if isinstance(constant, types.CodeType):
                add(constant)

    add(code)
    return hasher.hexdigest()


def find(name: str) -> Any:
    """The module, or module attribute, that a qualified name means, or `MISSING`."""
    if name.startswith("module "):
        return sys.modules.get(name.removeprefix("module "), MISSING)
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:cut]))
        if module is None:
            continue
        value: Any = module
        for part in parts[cut:]:
            value = (
                vars(value).get(part, MISSING) if isinstance(value, type) else getattr(value, part, MISSING)
            )
            if isinstance(value, staticmethod | classmethod):
                value = value.__func__
            if value is MISSING:
                break
        else:
            return value
    return getattr(builtins, parts[-1], MISSING) if len(parts) == 1 else MISSING


def find_code(name: str) -> tuple[types.CodeType, dict[str, Any]] | None:
    """The code that a captured function's name means, and the globals it runs in, found in the function around it."""
    path = name.partition("@")[0]
    outer, _, inner = path.partition(".<locals>.")
    around = find(outer)
    if not inner or not isinstance(around, types.FunctionType):
        return None
    wanted = f"{around.__qualname__}.<locals>.{inner}"
    stack, found = [around.__code__], list[types.CodeType]()
    while stack:
        for constant in stack.pop().co_consts:
            if isinstance(constant, types.CodeType):
                stack.append(constant)
                digest = f"{path}@{_code_digest(constant)}"
                if constant.co_qualname == wanted and name in (path, digest):
                    found.append(constant)
    return (found[0], around.__globals__) if len(found) == 1 else None


def find_wrapper(name: str, cells: int) -> tuple[types.CodeType, dict[str, Any]] | None:
    """The code of a function that bears the name of the one it wraps, as `functools.wraps` makes it, and its globals.

    It is found by what it does, first in the package of the wrapped function, then anywhere; None where that is not one code.

    Args:
        name: the captured function's.
        cells: so many names its closure holds.
    """
    digest = name.partition("@")[2]
    package = name.partition(".")[0]
    if not digest:
        return None
    modules = [module for module in list(sys.modules.values()) if isinstance(module, types.ModuleType)]
    near = [m for m in modules if m.__name__.partition(".")[0] == package]
    for group in (near, modules):
        found: dict[int, tuple[types.CodeType, dict[str, Any]]] = {}
        for module in group:
            for code in _inner_codes(vars(module)):
                if len(code.co_freevars) == cells and _code_digest(code) == digest:
                    found[id(code)] = code, vars(module)
        if found:
            return next(iter(found.values())) if len(found) == 1 else None
    return None


def _inner_codes(namespace: dict[str, Any]) -> Iterator[types.CodeType]:
    """The code of every function that is made within a function or method of a module."""
    holders = [namespace, *(vars(value) for value in list(namespace.values()) if type(value) is type)]
    seen: set[int] = set()
    for value in [value for holder in holders for value in list(holder.values())]:
        # By its type: what stands in for something else may run code when it is asked for its class.
        function = value.__func__ if type(value) in (staticmethod, classmethod) else value
        if type(function) is not types.FunctionType or function.__globals__ is not namespace:
            continue
        stack = [function.__code__]
        while stack:
            for constant in stack.pop().co_consts:
                if isinstance(constant, types.CodeType) and id(constant) not in seen:
                    seen.add(id(constant))
                    stack.append(constant)
                    yield constant


def frame_locals(frame: types.FrameType) -> dict[str, Any]:
    """A copy of a frame's local names; nothing that they hold is kept alive by the frame's own snapshot of them."""
    values = frame.f_locals
    copy = dict(values)
    # Before 3.13 a function's frame keeps the dict that it hands out, and with it objects that the function let go.
    if sys.version_info < (3, 13) and frame.f_code.co_flags & 0x1 and frame.f_trace is None:
        values.clear()
    return copy


def child_items(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds directly, by texts that name the places: attributes, keys, indices."""
    for name, item in own_dict(value).items():
        yield f".{name}", item
    if isinstance(value, dict):
        for key, item in dict.items(value):
            if isinstance(key, str | int):
                yield f"[{key!r}]", item
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"[{index}]", item


def opaque_text(value: Any) -> str:
    """What an opaque node says of its object, and what a live one must say to stand for it."""
    if isinstance(value, type):
        return f"class {type_name(value)}"
    if type(value).__module__ == "typing":
        return f"typing {value!r}"
    if isinstance(value, CACHE):
        wrapped = getattr(value, "__wrapped__", value)
        return f"cache {getattr(wrapped, '__module__', '?')}.{getattr(wrapped, '__qualname__', type_name(type(wrapped)))}"
    return type_name(type(value))


HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
"""Where a leaf tensor keeps the functions that its backward pass calls; no part of its `__dict__`."""

_WRAPPED = ("_orig_mod", "module")


def wrapped_by(value: Any) -> Any:
    """The module inside a compiled or distributed one."""
    modules = own_dict(value).get("_modules", {})
    return next((modules[name] for name in _WRAPPED if name in modules), MISSING)


def tensor_dict(value: Any) -> dict[str, Any]:
    """A tensor's attributes, and the hooks of its backward pass."""
    attributes = own_dict(value)
    hooks = {name: found for name in HOOKS if (found := getattr(value, name, None))}
    return {**attributes, **hooks} if hooks else attributes


def behind_proxy(value: types.MappingProxyType[Any, Any]) -> Any:
    """The mapping that a read-only view shows."""
    # The view has no attribute for it; it is the one object that it refers to.
    return next(iter(gc.get_referents(value)), MISSING)
