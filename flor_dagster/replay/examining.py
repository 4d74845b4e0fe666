"""What stands in the way of a fast replay, before anything is trained: from the source, and from what past runs said."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flor_dagster.propagation.modules import local_imports, parsed
from flor_dagster.recording.scopes import own_nodes
from flor_dagster.recording.source import LoopSource, find_loop
from flor_dagster.replay.foreseeing import Foreseer, Obstacle
from flor_dagster.store import LogStore
from flor_dagster.store.models import RunRow
from flor_dagster.versions.repository import decode_source

_PACKAGE = "flor_dagster"
_ITERATOR_CALLS = frozenset({"iter", "zip", "map", "filter", "enumerate", "reversed"})
_HINTS = {
    "consumed by": "write `for … in flor.loop(name, zip(…))`: the loop outside, the other call inside it",
    "not the loop's iterable": "write `for … in flor.loop(name, …)` as a statement of its own",
    "yields or awaits": "move the loop's body into a function that neither yields nor awaits",
    "async for": "collect the items first, then loop over them with a plain `for`",
    "class body": "move the loop into a function or to the top of the module",
    "line of the `for`": "put the body on lines of its own",
    "can't be known": "call the function by its name instead",
    "no `for` statement": "write `for … in flor.loop(name, …):`",
}


@dataclass(frozen=True, slots=True)
class LoopFinding:
    """What is known of one `flor.loop`.

    Attributes:
        name: The loop's.
        file: Relative to the repository.
        line: Of the call.
        obstacles: From the source.
        seen: What the latest run that came here said, in words, with the run's key.
    """

    name: str
    file: str
    line: int
    obstacles: tuple[Obstacle, ...]
    seen: tuple[str, ...]

    @property
    def skippable(self) -> bool:
        """Whether nothing certain stands in the way."""
        return not self.seen and not any(obstacle.certain for obstacle in self.obstacles)


def examine(root: Path, files: Sequence[str], script: str, store: LogStore | None) -> tuple[LoopFinding, ...]:
    """Look at every `flor.loop` that a script and the repository's modules that it imports have.

    Args:
        root: the repository.
        files: its Python files.
        script: one of them.
        store: what past runs said; None looks at the source alone.

    Raises:
        SourceSyntaxError: the script can't be read.
    """
    run = _latest(store, script) if store is not None else None
    seen = _seen(store, run) if store is not None and run is not None else {}
    found: list[LoopFinding] = []
    texts = imported_sources(root, files, script)
    trees = {file: parsed(text) for file, text in texts.items()}
    foreseer = Foreseer({file: tree for file, tree in trees.items() if tree is not None})
    for file, tree in trees.items():
        for call, name in _loop_calls(tree) if tree is not None else ():
            said = tuple(f"in run {run.key}: {text}" for text in seen.get((file, name), ())) if run else ()
            found.append(LoopFinding(name, file, call.lineno, _obstacles(foreseer, file, tree, call), said))
    return tuple(sorted(found, key=lambda one: (one.file != script, one.file, one.line)))


def imported_sources(root: Path, files: Sequence[str], script: str) -> dict[str, str]:
    """The texts of a script and of the repository's files that it imports, by file.

    Raises:
        SourceSyntaxError: one of them can't be decoded.
    """
    return {file: decode_source((root / file).read_bytes(), file) for file in _reachable(root, files, script)}


def _reachable(root: Path, files: Sequence[str], script: str) -> list[str]:
    """The script and the files of the repository that it imports, over any number of steps."""
    paths = frozenset(files) | {script}
    todo, done = [script], dict[str, None]()
    while todo:
        file = todo.pop()
        if file in done or not (root / file).is_file():
            continue
        done[file] = None
        tree = parsed(decode_source((root / file).read_bytes(), file))
        todo += [one.path for one in local_imports(tree, file, paths)] if tree is not None else []
    return list(done)


def _loop_calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """Every call of our `loop`, under any alias of the import."""
    modules: set[str] = set()
    functions: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {a.asname or a.name for a in node.names if a.name == _PACKAGE}
        elif isinstance(node, ast.ImportFrom) and node.module == _PACKAGE:
            functions |= {a.asname or a.name for a in node.names if a.name == "loop"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Attribute(value=ast.Name(id=module), attr="loop") if module in modules:
                pass
            case ast.Name(id=function) if function in functions:
                pass
            case _:
                continue
        first = node.args[0] if node.args else None
        named = isinstance(first, ast.Constant) and isinstance(first.value, str)
        yield node, first.value if named else "(computed name)"  # pyright: ignore[reportReturnType, reportOptionalMemberAccess, reportAttributeAccessIssue]


def _obstacles(
    foreseer: Foreseer, file: str, tree: ast.Module | None, call: ast.Call
) -> tuple[Obstacle, ...]:
    if tree is None:
        return ()
    loop = find_loop(tree, call.lineno, call.col_offset)
    if loop is None:
        reason = "no `for` statement pulls from it directly"
        return (Obstacle("", reason, _hint(reason), call.lineno, True),)
    found = [Obstacle("", loop.reason, _hint(loop.reason), loop.line, True)] if loop.reason else []
    found += _of_names(tree, loop)
    found += _of_iterable(tree, call)
    known = {obstacle.name for obstacle in found if obstacle.name}
    found += [o for o in foreseer.foresee(file, loop) if not o.name or o.name not in known]
    return tuple(found)


def _of_names(tree: ast.Module, loop: LoopSource) -> Iterator[Obstacle]:
    """Names that the loop uses and whose values have no state that can be kept."""
    inside = range(loop.line, loop.end_line + 1)
    for name, line, what in _unkeepable(tree, loop.line):
        if name not in loop.loaded | loop.stored or (line in inside and name in loop.first_stored):
            continue
        if what.endswith("file"):
            read = " that is read from" if what.startswith("read") else ""
            sentence = f"`{name}` is an open file{read}: only where it stands is known, not what was written"
            yield Obstacle(name, sentence, "open it inside the body, or before each use", line, False)
        else:
            sentence = f"`{name}` is {what}: an iterator's position can't be captured"
            hint = "make it a list, or make it inside the loop's body"
            yield Obstacle(name, sentence, hint, line, line not in inside)
    for name in sorted(loop.tainted & loop.stored & loop.read_outside - loop.targets):
        sentence = f"`{name}` holds a time or a value of the machine and is read behind the loop: it differs in every replay"
        yield Obstacle(name, sentence, "values made from it are not compared", loop.line, False)


def _of_iterable(tree: ast.Module, call: ast.Call) -> Iterator[Obstacle]:
    """An iterator in a variable that `flor.loop` itself is given."""
    if len(call.args) < 2 or not isinstance(call.args[1], ast.Name):
        return
    given = call.args[1].id
    for name, line, what in _unkeepable(tree, call.lineno):
        if name == given and not what.endswith("file"):
            sentence = f"`{name}`, which it goes over, is {what}: a skipped loop would leave it unconsumed"
            yield Obstacle(name, sentence, "give `flor.loop` the list or the call itself", line, True)


def _unkeepable(tree: ast.Module, line: int) -> Iterator[tuple[str, int, str]]:
    """Names that a line sees and that are bound to an iterator, a generator or an open file: (name, line, what it is)."""
    generators = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node))
    }
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    around = [n for n in functions if n.lineno <= line <= (n.end_lineno or n.lineno)]
    for node in (node for scope in (tree, *around) for node in own_nodes(scope.body)):
        pairs: list[tuple[ast.expr | None, ast.expr]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.With):
            pairs = [(item.optional_vars, item.context_expr) for item in node.items]
        for target, value in pairs:
            what = _what(value, generators)
            if isinstance(target, ast.Name) and what:
                yield target.id, target.lineno, what


def _what(value: ast.expr, generators: set[str]) -> str:
    if isinstance(value, ast.GeneratorExp):
        return "a generator"
    if not isinstance(value, ast.Call):
        return ""
    match value.func:
        case ast.Name(id="open") | ast.Attribute(attr="open"):
            mode = next(
                (k.value for k in value.keywords if k.arg == "mode"),
                value.args[1] if len(value.args) > 1 else None,
            )
            text = str(mode.value) if isinstance(mode, ast.Constant) else "r" if mode is None else ""
            return "read file" if set(text) & set("r+") else "file"
        case ast.Name(id=name) if name in generators:
            return f"a generator of `{name}`"
        case ast.Name(id=name) if name in _ITERATOR_CALLS:
            return f"an iterator (`{name}(…)`)"
        case _:
            return ""


def _hint(reason: str) -> str:
    return next((hint for part, hint in _HINTS.items() if part in reason), "")


def _latest(store: LogStore, script: str) -> RunRow | None:
    """The latest run of a script."""
    runs = [run for run in store.runs() if run.entrypoint.partition(":")[0] == script]
    return runs[-1] if runs else None


def _seen(store: LogStore, run: RunRow) -> Mapping[tuple[str, str], list[str]]:
    """What a run said of the end states that could not be captured: (file, loop name) → sentences, each once."""
    loops = {loop.loop_id: loop for loop in store.loops(run.id)}
    found: dict[tuple[str, str], list[str]] = {}
    for number, _, reasons in store.uncaptured(run.id):
        loop = loops.get(number)
        if loop is None:
            continue
        said = found.setdefault((PurePosixPath(loop.file).as_posix(), loop.name), [])
        for reason in reasons:
            sentence = f"`{loop.name}` could not be captured: {reason}"
            if sentence not in said:
                said.append(sentence)
    return found
