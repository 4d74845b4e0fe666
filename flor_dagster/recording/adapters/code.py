"""Code as state: classes with their attributes, functions with their closures and defaults, modules, enums, partials."""

from __future__ import annotations

import enum
import functools
import types
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import CheckpointError
from flor_dagster.recording import shape
from flor_dagster.recording.adapters.containers import fill_dict
from flor_dagster.recording.adapters.pickled import describe_reduced
from flor_dagster.recording.adapters.registry import Describe, Ref, Uncapturable, describes, puts_back
from flor_dagster.recording.matching import fits
from flor_dagster.recording.shape import CACHE, MISSING, find, opaque_text

if TYPE_CHECKING:
    from flor_dagster.recording.capture import Capturer
    from flor_dagster.recording.graft import Grafter


def describe_class(walk: Capturer, value: type, node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    name = shape.type_name(value)
    if not walk.is_own(value.__module__):
        return ["find", name] if shape.find(name) is value else ["opaque", opaque_text(value)]
    attributes = {k: v for k, v in list(vars(value).items()) if not shape.is_machinery(k, v)}
    bases = [base for base in (*value.__bases__, type(value)) if walk.is_own(base.__module__)]
    return ["class", name, walk.named(attributes), walk.refs(bases)]


def recognise(kind: type) -> Describe | None:
    """Classes, enumerations, partials and cached functions."""
    if issubclass(kind, type):
        return describe_class
    if issubclass(kind, enum.Enum):
        return describe_member
    if issubclass(kind, functools.partial):
        return describe_partial
    return describe_cache if kind is CACHE else None


_OF_A_MEMBER = frozenset(
    {"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_", "_hashable_values_"}
)


def describe_member(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A member of an enumeration, and what was set on it."""
    del node
    more = {k: v for k, v in shape.own_dict(value).items() if k not in _OF_A_MEMBER}
    return ["enum", walk.ref(type(value)), walk.ref(value._value_), *([walk.named(more)] if more else [])]


def describe_partial(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A partial: what it calls, and with what."""
    del node
    parts = [walk.ref(value.func), walk.refs(value.args), walk.pairs(value.keywords.items())]
    return ["partial", shape.type_name(type(value)), *parts, walk.named(shape.own_dict(value))]


@describes(property, staticmethod, classmethod, functools.cached_property)
def describe_holder(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    return ["holder", type(value).__name__, walk.refs(shape.functions_in(value))]


@describes(types.FunctionType)
def describe_function(walk: Capturer, value: types.FunctionType, node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    own = walk.is_own(str(value.__globals__.get("__name__", "")))
    name = shape.function_name(value)
    if own:
        walk.meet_function(value)
    elif value.__closure__ is None and shape.find(name) is value:
        return ["find", name]
    cells: list[Ref | None] = []
    for free, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            cells.append(walk.ref(cell.cell_contents))
        except ValueError:
            cells.append(None)
        except Uncapturable as problem:
            raise problem.under(f".<{free}>") from None
    # A library's defaults are its own business; what its closures hold may be the program's.
    defaults = walk.refs(value.__defaults__ or ()) if own else []
    keywords = walk.pairs((value.__kwdefaults__ or {}).items()) if own else []
    return ["function", name, cells, defaults, keywords, walk.pairs(vars(value).items())]


@describes(types.MethodType)
def describe_bound(walk: Capturer, value: types.MethodType, node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    try:
        return ["bound", walk.ref(value.__func__), walk.ref(value.__self__)]
    except Uncapturable as problem:
        raise problem.under(".__self__") from None


@describes(types.BuiltinFunctionType, types.MethodWrapperType)
def describe_builtin(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType | type):
        return ["method", walk.ref(owner), value.__name__]
    return describe_reduced(walk, value, [])


@describes(types.ModuleType)
def describe_module(walk: Capturer, value: types.ModuleType, node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    # Its globals become roots of their own.
    if walk.is_own(value.__name__):
        for name, item in list(vars(value).items()):
            walk.note_global(vars(value), name)
            if isinstance(item, types.ModuleType) and walk.is_own(item.__name__):
                walk.ref(item)
    return ["find", f"module {value.__name__}"]


def describe_cache(walk: Capturer, value: Any, node: list[Any]) -> list[Any]:
    """A node for it."""
    del node
    wrapped = getattr(value, "__wrapped__", None)
    if isinstance(wrapped, types.FunctionType) and not walk.is_own(
        str(wrapped.__globals__.get("__name__", ""))
    ):
        return ["opaque", opaque_text(value)]
    if wrapped is not None and not isinstance(wrapped, types.BuiltinFunctionType | type):
        walk.ref(wrapped)
        if value.cache_info().currsize:
            raise Uncapturable("is a function whose cache of results can't be captured")
    return ["opaque", opaque_text(value)]


@puts_back("find")
def put_found(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The module attribute of that name."""
    del ref, live
    found = find(node[1])
    if found is MISSING:
        raise CheckpointError(f"{node[1]} does not exist in this program")
    return found


@puts_back("class")
def put_class(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The class with the recorded attributes."""
    target = live if live is not MISSING else graft.template(ref)
    target = find(node[1]) if target is MISSING else target
    if not isinstance(target, type):
        raise CheckpointError(f"the class {node[1]} does not exist in this program")
    graft.memo[ref] = target
    current = dict(vars(target))
    for name, attribute in node[2].items():
        old = current.get(name, MISSING)
        new = graft.value(attribute, old)
        if new is not old:
            setattr(target, name, new)
    for name, old in current.items():
        if name not in node[2] and not shape.is_machinery(name, old):
            delattr(target, name)
    for base in node[3]:
        graft.value(base)
    return target


@puts_back("holder")
def put_holder(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live descriptor, once its functions have their state."""
    live = live if live is not MISSING else graft.template(ref)
    functions = [graft.value(r) for r in node[2]]
    if live is MISSING or any(a is not b for a, b in zip(shape.functions_in(live), functions, strict=True)):
        raise CheckpointError(f"a {node[1]} can't be made anew")
    return live


@puts_back("function")
def put_function(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live function, or a new one of the same code; its closure, defaults and attributes are filled."""
    if live is MISSING:
        live = _new_function(graft, ref, node)
    graft.memo[ref] = live
    cells = live.__closure__ or ()
    if len(cells) != len(node[2]):
        raise CheckpointError(f"the function {node[1]} has another closure in this program")
    for cell, content in zip(cells, node[2], strict=True):
        try:
            old = cell.cell_contents
        except ValueError:
            old = MISSING
        if content is None:
            if old is not MISSING:
                del cell.cell_contents
            continue
        new = graft.value(content, old)
        if new is not old:
            cell.cell_contents = new
    if node[3] or node[4]:
        _fill_defaults(graft, node, live)
    fill_dict(graft, vars(live), node[5])
    return live


def _fill_defaults(graft: Grafter, node: list[Any], live: types.FunctionType) -> None:
    old = live.__defaults__ or ()
    defaults = tuple(graft.values(node[3], old))
    if len(old) != len(defaults) or any(a is not b for a, b in zip(old, defaults, strict=True)):
        live.__defaults__ = defaults
    if node[4]:
        live.__kwdefaults__ = live.__kwdefaults__ or {}
        fill_dict(graft, live.__kwdefaults__, node[4])


def _new_function(graft: Grafter, ref: int, node: list[Any]) -> Any:
    found = find(node[1].partition("@")[0])
    if fits(node, found):
        return found
    # Made anew, with cells of its own: from one of the same definition, or from the code of the function around it.
    model = graft.template(ref)
    if model is MISSING:
        return _function_of_code(node)
    cells = tuple(types.CellType() for _ in model.__closure__ or ())
    function = types.FunctionType(
        model.__code__, model.__globals__, model.__name__, model.__defaults__, cells
    )
    function.__kwdefaults__ = None if model.__kwdefaults__ is None else dict(model.__kwdefaults__)
    function.__qualname__, function.__module__ = model.__qualname__, model.__module__
    return function


def _function_of_code(node: list[Any]) -> types.FunctionType:
    found = shape.find_code(node[1]) or shape.find_wrapper(node[1], len(node[2]))
    if found is None:
        raise CheckpointError(f"the function {node[1].partition('@')[0]} does not exist in this program yet")
    code, namespace = found
    cells = tuple(types.CellType() for _ in code.co_freevars)
    function = types.FunctionType(code, namespace, code.co_name, None, cells)
    function.__qualname__ = code.co_qualname
    return function


@puts_back("bound")
def put_bound(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live method where it is bound to the same object."""
    function, owner = graft.now(ref, lambda: graft.value(node[1])), graft.value(node[2])
    if ref in graft.memo:
        return graft.memo[ref]
    if live is not MISSING and live.__func__ is function and live.__self__ is owner:
        return live
    return types.MethodType(function, owner)


@puts_back("method")
def put_method(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """A built-in object's method."""
    owner = graft.value(node[1])
    if ref in graft.memo:
        return graft.memo[ref]
    return live if live is not MISSING and live.__self__ is owner else getattr(owner, node[2])


@puts_back("partial")
def put_partial(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The live partial with the recorded function and arguments."""
    if live is MISSING:
        kind = find(node[1])
        if not (isinstance(kind, type) and issubclass(kind, functools.partial)):
            raise CheckpointError(f"the class {node[1]} does not exist in this program")
        live = kind.__new__(kind, _nothing)
    graft.memo[ref] = live
    arguments = tuple(graft.values(node[3], ()))
    keywords = {graft.value(k): graft.value(v) for k, v in node[4]}
    attributes = {name: graft.value(r) for name, r in node[5].items()}
    live.__setstate__((graft.value(node[2]), arguments, keywords, attributes or None))
    return live


@puts_back("enum")
def put_enum(graft: Grafter, ref: int, node: list[Any], live: Any) -> Any:
    """The member with the recorded value."""
    del ref
    kind: Any = graft.value(node[1], MISSING if live is MISSING else type(live))
    member = kind(graft.value(node[2]))
    attributes = shape.own_dict(member)
    more: dict[str, Ref] = node[3] if len(node) > 3 else {}
    for name in attributes.keys() - _OF_A_MEMBER - more.keys():
        del attributes[name]
    for name, ref_ in more.items():
        attributes[name] = graft.value(ref_, attributes.get(name, MISSING))
    return member


def _nothing() -> None:
    """What a new partial calls until its state is set."""
