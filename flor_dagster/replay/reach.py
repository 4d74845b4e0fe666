"""From which loops may a function be reached? A conservative answer from names alone.

A call by name (`f(…)`, `x.f(…)`) reaches every function of that name. What anyone may call without naming it is *implicit*:
special methods, functions that are used as values (callbacks, tables of handlers, arguments), methods of classes with
bases from elsewhere, functions with decorators that are not known to keep them to themselves. Implicit functions, and what
they call, may run in every loop.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from flor_dagster.parsing import parse_python
from flor_dagster.recording.scopes import bound_names
from flor_dagster.replay.holding import Reads, joined, reads_at

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)

# Decorators that hand the function to nobody.
_KEEPING = frozenset(
    {
        "staticmethod", "classmethod", "property", "cached_property", "setter", "getter", "deleter", "no_grad",
        "inference_mode", "enable_grad", "wraps", "lru_cache", "cache", "contextmanager", "asynccontextmanager", "override",
        "final", "overload", "abstractmethod", "compile", "jit", "njit", "dataclass", "total_ordering",
        "runtime_checkable", "flor_asset",
    }
)  # fmt: skip

# Bases that call none of a class's methods but special ones.
_PASSIVE_BASES = frozenset(
    {
        "object", "ABC", "Protocol", "Generic", "Enum", "IntEnum", "StrEnum", "NamedTuple", "TypedDict", "Exception",
        "RuntimeError", "ValueError", "TypeError", "dict", "list", "tuple", "set", "str", "int", "float",
    }
)  # fmt: skip

_MAKERS = frozenset({"__init__", "__new__", "__post_init__", "__init_subclass__"})
_ACCESSED = frozenset({"property", "cached_property", "setter", "getter", "deleter"})
_DYNAMIC = frozenset({"eval", "exec", "globals", "locals", "vars", "__import__", "import_module"})
_BY_TEXT = {"getattr": 1, "hasattr": 1, "attrgetter": 0, "methodcaller": 0}


_Block = ast.For | ast.AsyncFor | ast.While | ast.Try | ast.TryStar
_Side = Callable[[int, ast.stmt | ast.Call], bool]


@dataclass(frozen=True, slots=True)
class Site:
    """A `flor.loop(...)` call in the old version: its file, and line and column of the call."""

    file: str
    line: int
    column: int


@dataclass(slots=True)
class _Named:
    """What a piece of code names: functions that it may call, and whether it may call any."""

    names: set[str] = field(default_factory=set[str])
    dynamic: bool = False


@dataclass(slots=True)
class _Definition:
    file: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    owner: ast.ClassDef | None


class Reach:
    """Which functions a piece of code may run, directly or through others.

    Args:
        sources: file → text of the version's Python files that the program loaded.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._trees: dict[str, ast.Module] = {}
        for file, text in sources.items():
            try:
                self._trees[file] = parse_python(text)
            except (SyntaxError, ValueError):
                continue
        self._parents = {
            id(child): parent
            for tree in self._trees.values()
            for parent in ast.walk(tree)
            for child in ast.iter_child_nodes(parent)
        }
        self._aliases = _import_aliases(self._trees.values())
        self._functions: dict[str, list[_Definition]] = defaultdict(list)
        self._classes: dict[str, list[ast.ClassDef]] = defaultdict(list)
        self._calls: dict[str, list[tuple[str, ast.Call]]] = defaultdict(list)
        self._values: set[str] = set()
        self._attributes: set[str] = set()
        for file, tree in self._trees.items():
            self._read(file, tree)
        self._bodies: dict[str, _Named] = defaultdict(_Named)
        for name, definitions in self._functions.items():
            for definition in definitions:
                self._add(self._bodies[name], definition.node)
        for name, classes in self._classes.items():
            for node in classes:
                self._add(self._bodies[name], node)
        self._everywhere = _Named()
        for definitions in self._functions.values():
            for definition in definitions:
                if self._implicit(definition):
                    self._add(self._everywhere, definition.node)
        for tree in self._trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.Lambda):
                    self._add(self._everywhere, node)
        self._reached: dict[Site, _Named | None] = {}

    # Reading the sources -----------------------------------------------------------------------------------------

    def _read(self, file: str, tree: ast.Module) -> None:
        modules = _module_names(tree)
        stored: dict[int, set[str]] = {}
        for node in ast.walk(tree):
            parent = self._parents.get(id(node))
            if isinstance(node, FUNCTIONS):
                owner = parent if isinstance(parent, ast.ClassDef) else None
                self._functions[node.name].append(_Definition(file, node, owner))
            elif isinstance(node, ast.ClassDef):
                self._classes[node.name].append(node)
            elif isinstance(node, ast.Call):
                for name in self._originals(_last_name(node.func)):
                    self._calls[name].append((file, node))
                if _last_name(node.func) in _BY_TEXT:
                    self._values |= _texts(node)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                if not (isinstance(parent, ast.Call) and parent.func is node) and not self._is_own_variable(
                    node, stored
                ):
                    self._values.update(self._originals(node.id))
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                if isinstance(parent, ast.Call) and parent.func is node:
                    continue
                plain_module = isinstance(node.value, ast.Name) and node.value.id in modules
                (self._values if plain_module else self._attributes).add(node.attr)

    def _originals(self, name: str) -> set[str]:
        return {name} | self._aliases.get(name, set())

    def _is_own_variable(self, node: ast.Name, stored: dict[int, set[str]]) -> bool:
        """Whether a name is a variable or parameter of the function that it stands in, and no function of that name."""
        scope: ast.AST | None = node
        while scope is not None and not isinstance(scope, FUNCTIONS):
            scope = self._parents.get(id(scope))
        if scope is None:
            return False
        if id(scope) not in stored:
            arguments = {a.arg for a in ast.walk(scope.args) if isinstance(a, ast.arg)}
            defined = {n.name for n in ast.walk(scope) if isinstance(n, (*FUNCTIONS, ast.ClassDef))}
            stored[id(scope)] = (bound_names(scope.body) | arguments) - defined
        return node.id in stored[id(scope)]

    def _add(self, named: _Named, node: ast.AST) -> None:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                named.names |= self._originals(inner.id)
            elif isinstance(inner, ast.Attribute):
                named.names |= self._originals(inner.attr)
            elif isinstance(inner, ast.Import | ast.ImportFrom):
                named.names.update(part for a in inner.names for part in a.name.split("."))
                named.names.update((getattr(inner, "module", None) or "").split("."))
            elif isinstance(inner, ast.Call):
                name = _last_name(inner.func)
                named.names |= _texts(inner) if name in _BY_TEXT else set()
                named.dynamic |= _is_dynamic(inner.func) or _reads_any_attribute(inner, name)

    # What may be called without being named ----------------------------------------------------------------------

    def _implicit(self, definition: _Definition) -> bool:
        node, owner = definition.node, definition.owner
        name = node.name
        if name in _MAKERS and owner is not None:
            return self._made_anywhere(owner, frozenset())
        if (name.startswith("__") and name.endswith("__")) or name == "forward":
            return True
        decorators = {_last_name(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list}
        if decorators - _KEEPING or name in self._values:
            return True
        if owner is None:
            return False
        if name in self._attributes and not decorators & _ACCESSED:
            return True
        return self._is_foreign(owner, frozenset())

    def _made_anywhere(self, owner: ast.ClassDef, seen: frozenset[str]) -> bool:
        """Whether a class, or one derived from it, is used as a value or given away: anyone may make instances."""
        if owner.name in seen:
            return False
        named = {_last_name(d.func if isinstance(d, ast.Call) else d) for d in owner.decorator_list}
        heirs = [c for cs in self._classes.values() for c in cs
                 if any(_last_name(b) == owner.name for b in c.bases)]  # fmt: skip
        as_value = owner.name in self._values and not self._only_a_base_or_type(owner.name)
        return (
            bool(named - _KEEPING)
            or as_value
            or any(self._made_anywhere(heir, seen | {owner.name}) for heir in heirs)
        )

    def _only_a_base_or_type(self, name: str) -> bool:
        """Whether every use of a class as a value is as a base class, in an annotation or in `isinstance`."""
        for tree in self._trees.values():
            for node in ast.walk(tree):
                if not (isinstance(node, ast.Name) and name in self._originals(node.id)):
                    continue
                parent = self._parents.get(id(node))
                if isinstance(parent, ast.Call) and (
                    parent.func is node or _last_name(parent.func) in ("isinstance", "issubclass", "super")
                ):
                    continue
                if isinstance(parent, ast.ClassDef | ast.arg | ast.AnnAssign | ast.Attribute):
                    continue
                if isinstance(parent, FUNCTIONS) and node is parent.returns:
                    continue
                return False
        return True

    def _is_foreign(self, owner: ast.ClassDef, seen: frozenset[str]) -> bool:
        """Whether a library may know a class's methods by their names."""
        for base in owner.bases:
            name = _last_name(base.value if isinstance(base, ast.Subscript) else base)
            if name in _PASSIVE_BASES or name in seen:
                continue
            own = self._classes.get(name)
            if not own or any(self._is_foreign(c, seen | {name}) for c in own):
                return True
        decorators = {_last_name(d.func if isinstance(d, ast.Call) else d) for d in owner.decorator_list}
        return bool(decorators - _KEEPING)

    # Answers -------------------------------------------------------------------------------------------------------

    def may_run(self, site: Site, function: str, file: str = "") -> bool:
        """Whether the body of the loop at a site may run a function.

        Args:
            site: the loop.
            function: the function's qualified name; `<module>` means the file's top level.
            file: the file that it stands in; it is only needed for a top level.
        """
        reached = self._reach(site)
        if reached is None or reached.dynamic:
            return True
        *around, simple = function.split(".")
        if simple == "<module>":
            # A file's top level runs when it is first imported.
            return file != site.file and _module_of(file) in reached.names
        definitions = self._functions.get(simple)
        if not definitions:
            return True
        if any(self._implicit(d) for d in definitions) and not self._would_recur(simple, site):
            return True
        if simple in _MAKERS and around:
            return around[-1] in reached.names
        return simple in reached.names

    def _would_recur(self, function: str, site: Site) -> bool:
        """Whether running a function within the loop would come back to the loop's own function: it then names it."""
        loop = self.loop(site)
        around = None if loop is None else self._function_around(loop)
        if around is None:
            return False
        return around.name == function or around.name in self._closure_of(self._bodies[function]).names

    def _reach(self, site: Site) -> _Named | None:
        """Every name that a loop's code, and what it calls, names; None where the loop can't be found."""
        if site not in self._reached:
            loop = self.loop(site)
            self._reached[site] = None if loop is None else self._closure(loop)
        return self._reached[site]

    def _closure(self, loop: ast.For) -> _Named:
        first = _Named(set(self._everywhere.names), self._everywhere.dynamic)
        self._add(first, loop)
        return self._closure_of(first)

    def _closure_of(self, first: _Named) -> _Named:
        found = _Named(dynamic=first.dynamic)
        todo = set(first.names)
        while todo:
            name = todo.pop()
            if name in found.names:
                continue
            found.names.add(name)
            body = self._bodies.get(name)
            if body is not None:
                found.dynamic |= body.dynamic
                todo |= body.names - found.names
        return found

    def loop(self, site: Site) -> ast.For | None:
        """The `for` statement at a site."""
        return _for_statement(self._trees.get(site.file), site)

    def span(self, site: Site) -> tuple[int, int] | None:
        """First and last line of the `for` statement at a site."""
        loop = self.loop(site)
        return (loop.lineno, loop.end_lineno or loop.lineno) if loop is not None else None

    def has_else(self, site: Site) -> bool:
        """Whether the `for` statement at a site has an `else`, or can't be found."""
        loop = self.loop(site)
        return loop is None or bool(loop.orelse)

    def reads_of(self, file: str, lines: Container[int]) -> Reads:
        """What the code on some lines reads, itself or in the functions of the program that it names."""
        tree = self._trees.get(file)
        if tree is None:
            return Reads()
        parts = [reads_at(tree, lines)]
        seen: set[str] = set()
        todo = {part for chain in parts[0].chains for part in chain}
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            for definition in self._functions.get(name, ()):
                arguments = {a.arg for a in ast.walk(definition.node.args) if isinstance(a, ast.arg)}
                own = frozenset(bound_names(definition.node.body) | arguments)
                parts.append(reads_at(definition.node, None, own))
                todo |= {part for chain in parts[-1].chains for part in chain}
        return joined(parts)

    def only_before(self, file: str, function: str, line: int, site: Site) -> bool:
        """Whether a line can run only before the loop at a site begins, however the program goes.

        Args:
            file: where the line is.
            function: the qualified name of the function around it, `<module>` at the top.
            line: 1-based.
            site: the loop; it must be the program's first one of its place.
        """
        return self._on_one_side(file, function, line, site, _before)

    def only_after(self, file: str, function: str, line: int, site: Site) -> bool:
        """Whether a line can run only when the loop at a site is over; the same arguments as `only_before`."""
        return self._on_one_side(file, function, line, site, _after)

    def _on_one_side(self, file: str, function: str, line: int, site: Site, side: _Side) -> bool:
        loop = self.loop(site)
        if loop is None:
            return False
        places = self._ways_to(site.file, loop)
        if function == "<module>":
            return self._beside(file, None, line, places, side)
        definitions = self._functions.get(function.rpartition(".")[2], [])
        return len(definitions) == 1 and self._runs_beside(definitions[0], line, places, side, frozenset())

    def _ways_to(self, file: str, loop: ast.For) -> list[tuple[str, ast.stmt | ast.Call]]:
        """The loop, the only call of the function around it, the only call of the function around that, and so on.

        It ends where a function may be called more than once: nothing further up is known to be before or behind.
        """
        places: list[tuple[str, ast.stmt | ast.Call]] = [(file, loop)]
        seen: set[str] = set()
        while True:
            around = self._function_around(places[-1][1])
            if around is None or around.name in seen:
                return places
            seen.add(around.name)
            definitions = self._functions[around.name]
            calls = self._calls.get(around.name, [])
            if len(definitions) != 1 or len(calls) != 1 or self._implicit(definitions[0]):
                # Who knows how often it runs: its own lines may come again.
                return []
            places.append(calls[0])
            if self._loops_around(calls[0][1]):
                return []

    def _beside(
        self,
        file: str,
        function: ast.AST | None,
        line: int,
        places: list[tuple[str, ast.stmt | ast.Call]],
        side: _Side,
    ) -> bool:
        """Whether a line of a scope comes before (behind) the place in that scope that leads to the loop."""
        for place_file, node in places:
            if place_file == file and self._function_around(node) is function:
                around = [
                    a for a in self._blocks_around(node) if a.lineno <= line <= (a.end_lineno or a.lineno)
                ]
                # A loop brings the line round again; behind an error that is caught here, it may come without the loop's end.
                again = any(isinstance(a, LOOPS) or side is _after for a in around)
                return side(line, node) and not again
        return False

    def _runs_beside(
        self, definition: _Definition, line: int, places: list[tuple[str, ast.stmt | ast.Call]], side: _Side,
        seen: frozenset[str],
    ) -> bool:  # fmt: skip
        node = definition.node
        if any(self._function_around(place) is node for _, place in places):
            return self._beside(definition.file, node, line, places, side)
        calls = self._calls_of(definition)
        if node.name in seen or not calls or self._implicit(definition):
            return False
        for file, call in calls:
            holder = self._function_around(call)
            if holder is None:
                beside = self._beside(file, None, call.lineno, places, side)
            else:
                definitions = self._functions[holder.name]
                beside = len(definitions) == 1 and self._runs_beside(
                    definitions[0], call.lineno, places, side, seen | {node.name}
                )
            if not beside:
                return False
        return True

    def _calls_of(self, definition: _Definition) -> list[tuple[str, ast.Call]]:
        """Every call of a function; of one that makes instances, every call of its class. Empty where that can't be said."""
        name, owner = definition.node.name, definition.owner
        if name not in _MAKERS or owner is None:
            return self._calls.get(name, [])
        heirs = any(_last_name(b) == owner.name for cs in self._classes.values() for c in cs for b in c.bases)
        alone = len(self._classes[owner.name]) == 1 and not heirs and name not in self._calls
        return self._calls.get(owner.name, []) if alone else []

    def _function_around(self, node: ast.AST) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        here = self._parents.get(id(node))
        while here is not None and not isinstance(here, FUNCTIONS):
            here = self._parents.get(id(here))
        return here

    def _loops_around(self, node: ast.AST) -> list[_Block]:
        return [block for block in self._blocks_around(node) if isinstance(block, LOOPS)]

    def _blocks_around(self, node: ast.AST) -> Iterator[_Block]:
        """The loops and `try` statements around a place, in its own function."""
        here = self._parents.get(id(node))
        while here is not None and not isinstance(here, FUNCTIONS):
            if isinstance(here, (*LOOPS, ast.Try, ast.TryStar)):
                yield here
            here = self._parents.get(id(here))


def _before(line: int, node: ast.stmt | ast.Call) -> bool:
    return line < node.lineno


def _after(line: int, node: ast.stmt | ast.Call) -> bool:
    return line > (node.end_lineno or node.lineno)


def _for_statement(tree: ast.Module | None, site: Site) -> ast.For | None:
    if tree is None:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.For):
            for call in ast.walk(node.iter):
                if isinstance(call, ast.Call) and (call.lineno, call.col_offset) == (site.line, site.column):
                    return node
    return None


def _last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def _is_dynamic(function: ast.expr) -> bool:
    """Whether it calls what only a text says; `model.eval()` does not."""
    if isinstance(function, ast.Attribute) and function.attr != "import_module":
        named = isinstance(function.value, ast.Name) and function.value.id in ("builtins", "__builtins__")
        return named and function.attr in _DYNAMIC
    return _last_name(function) in _DYNAMIC


def _texts(call: ast.Call) -> set[str]:
    """The names that are given to a call as texts: `getattr(model, "loss_on")`."""
    return {a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}


def _reads_any_attribute(call: ast.Call, name: str) -> bool:
    position = _BY_TEXT.get(name)
    if position is None or name == "hasattr":
        return False
    return len(call.args) <= position or not isinstance(call.args[position], ast.Constant)


def _import_aliases(trees: Iterable[ast.Module]) -> dict[str, set[str]]:
    """`from m import f as g`: g → {f}."""
    found: dict[str, set[str]] = defaultdict(set)
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    if alias.asname is not None:
                        found[alias.asname].add(alias.name.rpartition(".")[2])
    return dict(found)


def _module_names(tree: ast.Module) -> set[str]:
    """Names that an import statement binds: what is read from them may be a module's function."""
    return {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def _module_of(file: str) -> str:
    stem = file.removesuffix(".py")
    return stem.removesuffix("/__init__").rpartition("/")[2]
