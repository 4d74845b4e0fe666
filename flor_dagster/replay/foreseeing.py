"""What stands in a loop's way in the code that it reaches, from the source alone: names, helpers, threads, settings.

The words are those with which a recorded run names the same object. Calls are followed by their names, as `reach` does, but
only from what the loop itself names: what a library calls is not foreseen.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from flor_dagster.recording.source import LoopSource
from flor_dagster.recording.touching import DYNAMIC_NAMES, dotted, touches_of

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_PROGRESS = frozenset({"tqdm", "rich"})

_ITERATORS = frozenset({"iter", "zip", "map", "filter", "enumerate", "reversed"})
_OUTSIDE = frozenset(
    {"subprocess", "multiprocessing", "asyncio", "concurrent", "selectors", "select", "socket", "ssl", "sqlite3", "http", "mmap", "tempfile"}
)  # fmt: skip
_MADE_OUTSIDE = frozenset({"socket", "socketpair", "create_connection", "connect"})
_PLAIN_OUTSIDE = frozenset({"CompletedProcess"})
_CACHES = frozenset({"functools.lru_cache", "functools.cache"})
_SETTINGS = {
    "numpy.set_printoptions": "numpy's print options", "torch.set_printoptions": "torch's print options",
    "pandas.set_option": "pandas.options", "sklearn.set_config": "sklearn.set_config", "locale.setlocale": "the locale",
    "sys.path.append": "sys.path", "sys.path.insert": "sys.path",
    "torch.backends.cuda.enable_flash_sdp": "torch's scaled dot product attention",
    "torch.backends.cuda.enable_mem_efficient_sdp": "torch's scaled dot product attention",
    "torch.backends.cuda.enable_math_sdp": "torch's scaled dot product attention",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands in the way of skipping a loop's executions.

    Attributes:
        name: The name or object, empty where it is the loop itself.
        sentence: What it is, in words.
        hint: What to do.
        line: Where it stands.
        certain: Whether its executions can't be skipped for it; else they may still be, or the reason is a value's.
        file: The file that the line is of, empty for the loop's own.
    """

    name: str
    sentence: str
    hint: str
    line: int
    certain: bool
    file: str = ""


@dataclass(frozen=True, slots=True)
class _What:
    """Why a value can't be kept, in words behind its name; whether that is certain."""

    words: str
    hint: str
    certain: bool = True


@dataclass(slots=True)
class _Reached:
    """What a loop's code names, and what of the program's own it may run."""

    names: set[str] = field(default_factory=set[str])
    code: list[tuple[str, str, ast.AST]] = field(default_factory=list[tuple[str, str, ast.AST]])


class Foreseer:
    """Looks through the files that a script is made of.

    Args:
        trees: file → its parsed text.
    """

    def __init__(self, trees: Mapping[str, ast.Module]) -> None:
        self._trees = trees
        self._imports = {file: _imports(tree) for file, tree in trees.items()}
        self._defined: dict[str, list[tuple[str, ast.AST]]] = defaultdict(list)
        self._owners: dict[int, ast.AST] = {}  # definition → the function that it stands in
        for file, tree in trees.items():
            for node in ast.walk(tree):
                if isinstance(node, _DEFINITIONS):
                    self._defined[node.name].append((file, node))
                if isinstance(node, _FUNCTIONS):  # breadth first: the innermost one comes last
                    self._owners |= {
                        id(n): node for n in ast.walk(node) if isinstance(n, _DEFINITIONS) and n is not node
                    }
        self._generators = {
            name
            for name, found in self._defined.items()
            for _, node in found
            if isinstance(node, ast.FunctionDef) and _yields(node)
        }
        self._classes = {
            n for n, found in self._defined.items() if any(isinstance(d, ast.ClassDef) for _, d in found)
        }

    def foresee(self, file: str, loop: LoopSource) -> tuple[Obstacle, ...]:
        """What stands in a loop's way beyond its own statement.

        Args:
            file: where it stands.
            loop: what its statement says.
        """
        tree = self._trees[file]
        node = next(
            (n for n in ast.walk(tree) if isinstance(n, ast.For | ast.AsyncFor) and n.lineno == loop.line and n.end_lineno == loop.end_line),
            None,
        )  # fmt: skip
        if node is None:
            return ()
        around = _function_around(tree, node)
        reached = self._reach(file, node, around)
        found = [
            *self._of_wrappers(file, loop), *self._of_globals(file, node, around, reached), *self._of_caches(reached),
            *self._of_threads(file, around, reached), *self._of_code(reached), *_of_deletion(node, around or tree, loop),
            *self._of_recursion(node, around, reached),
        ]  # fmt: skip
        here = [
            Obstacle(o.name, o.sentence, o.hint, o.line, o.certain, "" if o.file == file else o.file)
            for o in found
        ]
        return tuple(dict.fromkeys(here))

    # What the loop reaches ---------------------------------------------------------------------------------------

    def _reach(self, file: str, loop: ast.AST, around: ast.AST | None) -> _Reached:
        reached = _Reached()
        bound = {name: value for scope in (*self._trees.values(), around) if scope is not None
                 for name, value, _ in _bindings(_own(scope))}  # fmt: skip
        todo: list[tuple[str, str, ast.AST]] = [(file, "", loop)]
        seen: set[int] = set()
        open_functions = {id(around)}
        while around is not None:
            around = self._owners.get(id(around))
            open_functions.add(id(around))
        while todo:
            of, name, node = todo.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            reached.code.append((of, name, node))
            fresh = _names(node) - reached.names
            if touches_of(node).modules or any(c[0] == "sys" for c in touches_of(node).by_name):
                # It may get at any of the program's modules.
                fresh |= {
                    n for tree in self._trees.values() for n, _, _ in _bindings(_own(tree))
                } - reached.names
            reached.names |= fresh
            for one in fresh:
                made = bound.get(one)
                classes = (
                    {_last(n.func) for n in ast.walk(made) if isinstance(n, ast.Call)} & self._classes
                    if made
                    else set[str]()
                )
                reached.names |= classes
                todo += [(f, d, n) for d in (one, *classes) for f, n in self._defined.get(d, ())
                         if id(self._owners.get(id(n))) in open_functions | seen]  # fmt: skip
        return reached

    def _full(self, file: str, node: ast.expr) -> str:
        """The full name of what a dotted expression means, as far as the imports say."""
        chain = dotted(node)
        if not chain:
            return ""
        return ".".join((self._imports[file].get(chain[0], chain[0]), *chain[1:]))

    # What can't be kept ------------------------------------------------------------------------------------------

    def _of_globals(
        self, file: str, loop: ast.AST, around: ast.AST | None, reached: _Reached
    ) -> Iterator[Obstacle]:
        for of, tree in self._trees.items():
            for name, value, line in _bindings(_own(tree)):
                what = self._what(of, value) if name in reached.names else None
                inside = of == file and loop.lineno <= line <= (loop.end_lineno or line)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
                if what is not None and not inside:
                    yield Obstacle(name, f"`{name}` {what.words}", what.hint, line, what.certain, of)
            for name, value, line in _attributes(tree):
                what = self._what(of, value) if name in reached.names else None
                if what is not None:
                    yield Obstacle(name, f"`….{name}` {what.words}", what.hint, line, False, of)
        names = {n.id for n in ast.walk(loop) if isinstance(n, ast.Name)}
        for name, value, line in _bindings(_own(around)) if around is not None else ():
            what = self._what(file, value) if name in names else None
            inside = loop.lineno <= line <= (loop.end_lineno or line)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            if what is not None and not inside:
                yield Obstacle(name, f"`{name}` {what.words}", what.hint, line, what.certain, file)

    def _what(self, file: str, value: ast.expr) -> _What | None:
        """Why a value can't be kept; None where nothing says so."""
        if isinstance(value, ast.IfExp):
            return self._what(file, value.body) or self._what(file, value.orelse)
        if isinstance(value, ast.Tuple):
            return next((what for item in value.elts if (what := self._what(file, item))), None)
        consumed = "make it a list, or make it inside the loop's body"
        if isinstance(value, ast.GeneratorExp):
            return _What("is a generator: an iterator's position can't be captured", consumed)
        if isinstance(value, ast.Set) and any(
            isinstance(e, ast.Call) and _last(e.func) in self._classes for e in value.elts
        ):
            return _What(
                "may be a set of objects whose order depends on their places in memory",
                "make it a list or a dictionary",
                False,
            )
        if not isinstance(value, ast.Call):
            return None
        full, last = self._full(file, value.func), _last(value.func)
        module, _, rest = full.partition(".")
        if isinstance(value.func, ast.Name) and (full in _ITERATORS or last in self._generators):
            kind = "a generator" if last in self._generators else f"an iterator (`{last}(…)`)"
            return _What(f"is {kind}: an iterator's position can't be captured", consumed)
        if module == "itertools" and rest:
            return _What(f"is an iterator (`{full}(…)`): an iterator's position can't be captured", consumed)
        if full == "contextvars.ContextVar":
            return _What(
                "is a _contextvars.ContextVar, which can't be captured",
                "pass the value as an argument, or hold it in an object",
            )
        if full == "weakref.WeakSet":
            words = "is a weak set, whose order depends on its members' places in memory"
            return _What(words, "use a `weakref.WeakValueDictionary` or a list", False)
        if (
            isinstance(value.func, ast.Call) and self._full(file, value.func.func) in _CACHES
        ) or full in _CACHES:
            return _What(
                "is a function whose cache of results can't be captured",
                "clear its cache behind the loop, or keep results in a dictionary",
            )
        if (
            module in _OUTSIDE
            and (last[:1].isupper() or last in _MADE_OUTSIDE)
            and last not in _PLAIN_OUTSIDE
        ):
            return _What(
                f"is a {full}, which belongs to its process",
                "make it where it is used, inside the loop's body",
            )
        if last == "DataLoader" and _is_true(value, "persistent_workers"):
            words = "keeps the loader's workers (persistent_workers=True): what they drew lives in their processes"
            return _What(words, "leave persistent_workers out where the workers draw random numbers or count")
        if full == "numpy.memmap" and any(
            isinstance(n, ast.Constant) and n.value in ("r+", "w+") for n in ast.walk(value)
        ):
            return _What("is mapped to a file that it writes to", "write the file behind the loop")
        return None

    def _of_caches(self, reached: _Reached) -> Iterator[Obstacle]:
        """Functions of the program that remember their results, or that are told apart by types."""
        for of, name, node in reached.code:
            for one in ast.walk(node) if isinstance(node, ast.ClassDef) else [node]:
                for decorator in one.decorator_list if isinstance(one, _FUNCTIONS) else ():
                    full = self._full(of, decorator.func if isinstance(decorator, ast.Call) else decorator)
                    shown = getattr(one, "name", name)
                    if full in _CACHES:
                        words = f"`{shown}` is a function whose cache of results can't be captured"
                        yield Obstacle(
                            shown,
                            words,
                            "keep results in a dictionary of your own",
                            decorator.lineno,
                            True,
                            of,
                        )
                    elif full == "functools.singledispatch":
                        words = f"`{shown}` keeps its functions in a mappingproxy, which can't be captured"
                        yield Obstacle(
                            shown, words, "register all of them before the loop", decorator.lineno, False, of
                        )

    # What code does ----------------------------------------------------------------------------------------------

    def _of_wrappers(self, file: str, loop: LoopSource) -> Iterator[Obstacle]:
        for chain in loop.wrappers:
            full = ".".join((self._imports[file].get(chain[0], chain[0]), *chain[1:]))
            own = chain[0] in self._defined or full.partition(".")[0] not in _PROGRESS
            if own and full != "enumerate":
                module = (
                    file.removesuffix(".py").replace("/", ".") if "." not in full else full.rpartition(".")[0]
                )
                words = f"it is consumed by `{'.'.join(chain)}(…)`, which is a function of {module}"
                hint = "write `for … in flor.loop(name, …)` with the other call inside: `flor.loop(name, track(…))`"
                yield Obstacle("", words, hint, loop.line, True, file)

    def _of_threads(self, file: str, around: ast.AST | None, reached: _Reached) -> Iterator[Obstacle]:
        places = [(of, node) for of, _, node in reached.code]
        places += [(of, tree) for of, tree in self._trees.items()]
        if around is not None:
            places.append((file, around))
        for of, place in places:
            for call in _calls(
                _own(place) if isinstance(place, ast.Module | ast.FunctionDef) else ast.walk(place)
            ):
                if self._full(of, call.func) not in ("threading.Thread", "threading.Timer"):
                    continue
                targets = [k.value for k in call.keywords if k.arg == "target"] or call.args[1:2]
                name = _last(targets[0]) if targets else ""
                if around is not None and name == getattr(around, "name", ""):
                    words = f"it runs in a thread of its own: `{name}` is a thread's target"
                    yield Obstacle(name, words, "run it in the main thread", call.lineno, True, of)
                elif name in self._defined:
                    endless = any(_is_endless(node) for _, node in self._defined[name])
                    words = f"a thread that is started here runs `{name}` beside it{'' if endless else ', where it has not ended before'}"
                    yield Obstacle(
                        name, words, "join the thread before the loop's end", call.lineno, endless, of
                    )

    def _of_code(self, reached: _Reached) -> Iterator[Obstacle]:
        for of, name, node in reached.code:
            if name and isinstance(node, _FUNCTIONS):
                loaded = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                uses = [f"calls `{d}`" for d in sorted(loaded & DYNAMIC_NAMES)]
                uses += [f"uses `{f}`" for f in (touches_of(node).frames,) if f]
                for use in uses:
                    yield Obstacle(
                        name,
                        f"`{name}` {use}, so what it changes can't be known",
                        "say what it does by name",
                        node.lineno,
                        True,
                        of,
                    )
            for call in _calls(ast.walk(node)):
                setting = _SETTINGS.get(self._full(of, call.func), "")
                if setting:
                    words = f"{setting} may be changed in the loop by `{ast.unparse(call.func)}(…)`, which can't be put back"
                    yield Obstacle(setting, words, "set it before the loop", call.lineno, False, of)

    def _of_recursion(self, loop: ast.AST, around: ast.AST | None, reached: _Reached) -> Iterator[Obstacle]:
        name = getattr(around, "name", "")
        if name and any(
            _last(c.func) == name
            for _, _, node in reached.code
            for c in _calls(ast.walk(node))
            if node is not around
        ):
            words = f"`{name}` is called from within it: inside, its function is open already (recursion)"
            line = loop.lineno  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
            yield Obstacle(name, words, "put the loop into a function that is not recursive", line, False)  # pyright: ignore[reportUnknownArgumentType]


def _of_deletion(loop: ast.AST, scope: ast.AST, loop_source: LoopSource) -> Iterator[Obstacle]:
    deleted = {
        n.id: n.lineno for n in ast.walk(loop) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Del)
    }
    kept = {n.id for n in ast.walk(loop) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    before = {name for name, _, line in _bindings(_own(scope)) if line < loop_source.line}
    for name in sorted(deleted.keys() & before - kept):
        yield Obstacle(
            name, f"`{name}` is deleted in the loop", "set it to None instead", deleted[name], False
        )


# Reading the sources ---------------------------------------------------------------------------------------------------


def _imports(tree: ast.Module) -> dict[str, str]:
    """What each imported name means: `np` is numpy, `Popen` is subprocess.Popen."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """Every node of a scope but those in functions and classes within it."""
    stack = list(ast.iter_child_nodes(scope))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, (*_DEFINITIONS, ast.Lambda)):
            stack.extend(ast.iter_child_nodes(node))


def _bindings(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr, int]]:
    """Names that are bound to expressions by assignments: (name, expression, line)."""
    for node in nodes:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        for target in targets if value is not None else ():
            for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(one, ast.Name) and value is not None:
                    yield one.id, value, one.lineno


def _attributes(tree: ast.Module) -> Iterator[tuple[str, ast.expr, int]]:
    """Attributes that are bound to expressions: `self.pool = Pool()`."""
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Attribute) and isinstance(node, ast.Assign):
                yield target.attr, node.value, target.lineno


def _names(node: ast.AST) -> set[str]:
    found: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            found.add(inner.id)
        elif isinstance(inner, ast.Attribute):
            found.add(inner.attr)
    return found


def _calls(nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    return (node for node in nodes if isinstance(node, ast.Call))


def _last(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _function_around(tree: ast.Module, loop: ast.AST) -> ast.AST | None:
    """The innermost function that a loop stands in."""
    around = [n for n in ast.walk(tree) if isinstance(n, _FUNCTIONS) and any(i is loop for i in ast.walk(n))]
    return around[-1] if around else None


def _yields(function: ast.AST) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in _own(function))


def _is_endless(function: ast.AST) -> bool:
    """Whether it holds a `while True` that nothing leaves."""
    return any(
        isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and bool(node.test.value)
        and not any(isinstance(inner, ast.Break | ast.Return) for inner in ast.walk(node))
        for node in _own(function)
    )  # fmt: skip


def _is_true(call: ast.Call, keyword: str) -> bool:
    return any(
        k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is True
        for k in call.keywords
    )
