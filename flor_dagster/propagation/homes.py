"""In which files of the old version may the code around a statement lie? Functions move between files."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from flor_dagster.parsing import source_lines
from flor_dagster.propagation.modules import LocalImport, defined_functions, local_imports, parsed
from flor_dagster.propagation.trees import Counterparts, SourceTree, alike, changed_files, python_files

_SAME_NAME = 0.25  # least likeness of two functions of one name in files that are no counterparts
_OTHER_NAME = 0.6  # of two functions of different names
_CLEARLY = 0.15
_STRANGER = 0.3


@dataclass(frozen=True, slots=True)
class Homes:
    """Files of the old version in which to look, best first; `torn` where several are as good as each other."""

    paths: tuple[str, ...]
    torn: tuple[str, ...] = ()


class HomeFinder:
    """Finds the files that a statement's function may lie in.

    Args:
        new: the newer version.
        old: the older one.
        counterparts: which file is the counterpart of which.
        entry_point: the script of the old version that is run; of two equally good files, one that it imports is meant.
    """

    def __init__(
        self, new: SourceTree, old: SourceTree, counterparts: Counterparts, entry_point: str | None = None
    ) -> None:
        self._new, self._old = new, old
        self._counterparts = counterparts
        self._entry_point = entry_point
        self._changed: tuple[str, ...] | None = None
        self._changed_new: tuple[str, ...] = ()
        self._loaded: frozenset[str] | None = None

    def of(self, path: str, line: int) -> Homes:
        """Where to look for the place of the statement on a line of a file of the new version."""
        own = self._counterparts.of(path)
        first = () if own is None else (own,)
        text = self._new.read(path)
        module = parsed(text) if text is not None else None
        name, function = enclosing(module, line) if module is not None else ("", None)
        if text is None or function is None:
            return Homes(first)
        body = _source(text, function)
        at_home = self._likeness_in(own, name, body) if own is not None else None
        if at_home is not None and at_home >= _STRANGER:
            return Homes(first)
        linked = self._by_imports(path, own, name) if at_home is None else None
        if linked is not None:
            return Homes((linked, *(p for p in first if p != linked)))
        ranked = self._elsewhere(own, name, body)
        if not ranked:
            return Homes(first)
        best, path_of_best = ranked[0]
        if at_home is not None and best < max(2 * at_home, _OTHER_NAME):
            return Homes(first)
        rivals = tuple(p for likeness, p in ranked if best - likeness < _CLEARLY)
        if len(rivals) > 1:
            loaded = tuple(p for p in rivals if p in self._reachable())
            if len(loaded) != 1:
                return Homes(first, rivals) if at_home is None else Homes(first)
            path_of_best = loaded[0]
        return Homes((path_of_best, *first))

    def _by_imports(self, path: str, own: str | None, name: str) -> str | None:
        """Where the function is by what imports say, however little of its body is left.

        The file's counterpart takes it from another file; or a file of the new version takes it from this one, and that
        file's counterpart has it itself.
        """
        simple = name.partition(".")[0]
        if own is not None:
            for found in self._imports(self._old, own):
                if found.name == simple and self._defines(found.path, name):
                    return found.path
        if self._changed is None:
            self._look_at_changes()
        for importer in self._changed_new:
            if any(i.path == path and i.name == simple for i in self._imports(self._new, importer)):
                other = self._counterparts.of(importer)
                if other is not None and other != own and self._defines(other, name):
                    return other
        return None

    @staticmethod
    def _imports(tree: SourceTree, path: str) -> tuple[LocalImport, ...]:
        text = tree.read(path)
        module = parsed(text) if text is not None else None
        return local_imports(module, path, python_files(tree)) if module is not None else ()

    def _defines(self, path: str, name: str) -> bool:
        text = self._old.read(path)
        module = parsed(text) if text is not None else None
        return module is not None and name in defined_functions(module)

    def _look_at_changes(self) -> tuple[str, ...]:
        self._changed_new, self._changed = changed_files(self._new, self._old)
        self._new.prepare(self._changed_new)
        self._old.prepare(self._changed)
        return self._changed

    def _likeness_in(self, path: str, name: str, body: str) -> float | None:
        """How alike the function of a name in one file of the old version is; None where the file has none."""
        text = self._old.read(path)
        module = parsed(text) if text is not None else None
        other = defined_functions(module).get(name) if module is not None else None
        return None if other is None or text is None else alike(body, _source(text, other))

    def _elsewhere(self, own: str | None, name: str, body: str) -> list[tuple[float, str]]:
        """Other files whose function of that name, or else of another one, is alike; best first."""
        changed = self._look_at_changes() if self._changed is None else self._changed
        simple = name.rpartition(".")[2]
        pattern = re.compile(rf"\b(def|class)\s+{re.escape(simple)}\b")
        named: list[tuple[float, str]] = []
        others: list[tuple[float, str]] = []
        for path in changed:
            text = self._old.read(path) if path != own else None
            module = parsed(text) if text is not None else None
            if text is None or module is None:
                continue
            functions = defined_functions(module)
            if pattern.search(text):
                same = [f for q, f in functions.items() if q == name or q.rpartition(".")[2] == simple]
                likeness = max((alike(body, _source(text, f)) for f in same), default=0.0)
                if likeness >= _SAME_NAME:
                    named.append((likeness, path))
            likeness = max((alike(body, _source(text, f)) for f in functions.values()), default=0.0)
            if likeness >= _OTHER_NAME:
                others.append((likeness, path))
        return sorted(named or others, key=lambda r: (-r[0], r[1]))

    def _reachable(self) -> frozenset[str]:
        """The files of the old version that its entry point imports, directly or through others."""
        if self._loaded is None:
            paths = python_files(self._old)
            todo = [self._entry_point] if self._entry_point is not None else []
            seen: set[str] = set()
            while todo:
                path = todo.pop()
                text = self._old.read(path) if path not in seen else None
                seen.add(path)
                module = parsed(text) if text is not None else None
                if module is not None:
                    todo += [i.path for i in local_imports(module, path, paths)]
            self._loaded = frozenset(seen)
        return self._loaded


def enclosing(module: ast.Module, line: int) -> tuple[str, ast.stmt | None]:
    """The innermost function or class around a line, by qualified name; ("", None) at the top level."""
    best: tuple[str, ast.stmt | None] = ("", None)
    for name, syntax in defined_functions(module).items():
        if (
            syntax.lineno < line <= (syntax.end_lineno or 0)
            and isinstance(syntax, (ast.FunctionDef, ast.AsyncFunctionDef))
            and (best[1] is None or syntax.lineno > best[1].lineno)
        ):
            best = (name, syntax)
    return best


def _source(text: str, syntax: ast.stmt) -> str:
    lines = source_lines(text.removeprefix("\ufeff"))
    return "\n".join(lines[syntax.lineno - 1 : syntax.end_lineno])
