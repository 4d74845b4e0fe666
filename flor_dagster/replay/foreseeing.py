"""What stands in a loop's way in the code that it reaches, from the source alone: names, helpers, threads, settings.

The words are those with which a recorded run names the same object. Calls are followed by their names, as `reach` does, but
only from what the loop itself names: what a library calls is not foreseen.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flor_dagster.recording.source import LoopSource
from flor_dagster.recording.touching import DYNAMIC_NAMES, dotted, touches_of
from flor_dagster.replay.bindings import (
    DEFINITIONS,
    FUNCTIONS,
    attributes_of,
    bindings_of,
    calls_in,
    function_around,
    imports_of,
    is_endless,
    last_name,
    names_in,
    own_of,
    yields,
)
from flor_dagster.replay.unkeepable import CACHES, What, what_of

_PROGRESS = frozenset({"tqdm", "rich"})

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
        self._imports = {file: imports_of(tree) for file, tree in trees.items()}
        self._defined: dict[str, list[tuple[str, ast.AST]]] = defaultdict(list)
        self._owners: dict[int, ast.AST] = {}  # definition → the function that it stands in
        for file, tree in trees.items():
            for node in ast.walk(tree):
                if isinstance(node, DEFINITIONS):
                    self._defined[node.name].append((file, node))
                if isinstance(node, FUNCTIONS):  # breadth first: the innermost one comes last
                    self._owners |= {
                        id(n): node for n in ast.walk(node) if isinstance(n, DEFINITIONS) and n is not node
                    }
        self._generators = {
            name
            for name, found in self._defined.items()
            for _, node in found
            if isinstance(node, ast.FunctionDef) and yields(node)
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
        around = function_around(tree, node)
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
                 for name, value, _ in bindings_of(own_of(scope))}  # fmt: skip
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
            fresh = names_in(node) - reached.names
            if touches_of(node).modules or any(c[0] == "sys" for c in touches_of(node).by_name):
                # It may get at any of the program's modules.
                fresh |= {
                    n for tree in self._trees.values() for n, _, _ in bindings_of(own_of(tree))
                } - reached.names
            reached.names |= fresh
            for one in fresh:
                made = bound.get(one)
                classes = (
                    {last_name(n.func) for n in ast.walk(made) if isinstance(n, ast.Call)} & self._classes
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
            for name, value, line in bindings_of(own_of(tree)):
                what = self._what(of, value) if name in reached.names else None
                inside = of == file and loop.lineno <= line <= (loop.end_lineno or line)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
                if what is not None and not inside:
                    yield Obstacle(name, f"`{name}` {what.words}", what.hint, line, what.certain, of)
            for name, value, line in attributes_of(tree):
                what = self._what(of, value) if name in reached.names else None
                if what is not None:
                    yield Obstacle(name, f"`….{name}` {what.words}", what.hint, line, False, of)
        names = {n.id for n in ast.walk(loop) if isinstance(n, ast.Name)}
        for name, value, line in bindings_of(own_of(around)) if around is not None else ():
            what = self._what(file, value) if name in names else None
            inside = loop.lineno <= line <= (loop.end_lineno or line)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            if what is not None and not inside:
                yield Obstacle(name, f"`{name}` {what.words}", what.hint, line, what.certain, file)

    def _what(self, file: str, value: ast.expr) -> What | None:
        return what_of(value, lambda node: self._full(file, node), self._generators, self._classes)

    def _of_caches(self, reached: _Reached) -> Iterator[Obstacle]:
        """Functions of the program that remember their results, or that are told apart by types."""
        for of, name, node in reached.code:
            for one in ast.walk(node) if isinstance(node, ast.ClassDef) else [node]:
                for decorator in one.decorator_list if isinstance(one, FUNCTIONS) else ():
                    full = self._full(of, decorator.func if isinstance(decorator, ast.Call) else decorator)
                    shown = getattr(one, "name", name)
                    if full in CACHES:
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
            for call in calls_in(
                own_of(place) if isinstance(place, ast.Module | ast.FunctionDef) else ast.walk(place)
            ):
                if self._full(of, call.func) not in ("threading.Thread", "threading.Timer"):
                    continue
                targets = [k.value for k in call.keywords if k.arg == "target"] or call.args[1:2]
                name = last_name(targets[0]) if targets else ""
                if around is not None and name == getattr(around, "name", ""):
                    words = f"it runs in a thread of its own: `{name}` is a thread's target"
                    yield Obstacle(name, words, "run it in the main thread", call.lineno, True, of)
                elif name in self._defined:
                    endless = any(is_endless(node) for _, node in self._defined[name])
                    words = f"a thread that is started here runs `{name}` beside it{'' if endless else ', where it has not ended before'}"
                    yield Obstacle(
                        name, words, "join the thread before the loop's end", call.lineno, endless, of
                    )

    def _of_code(self, reached: _Reached) -> Iterator[Obstacle]:
        for of, name, node in reached.code:
            if name and isinstance(node, FUNCTIONS):
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
            for call in calls_in(ast.walk(node)):
                setting = _SETTINGS.get(self._full(of, call.func), "")
                if setting:
                    words = f"{setting} may be changed in the loop by `{ast.unparse(call.func)}(…)`, which can't be put back"
                    yield Obstacle(setting, words, "set it before the loop", call.lineno, False, of)

    def _of_recursion(self, loop: ast.AST, around: ast.AST | None, reached: _Reached) -> Iterator[Obstacle]:
        name = getattr(around, "name", "")
        if name and any(
            last_name(c.func) == name
            for _, _, node in reached.code
            for c in calls_in(ast.walk(node))
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
    before = {name for name, _, line in bindings_of(own_of(scope)) if line < loop_source.line}
    for name in sorted(deleted.keys() & before - kept):
        yield Obstacle(
            name, f"`{name}` is deleted in the loop", "set it to None instead", deleted[name], False
        )
