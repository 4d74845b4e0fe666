"""What a statement's text needs in the file that it is put into: imports that work there, or the name that is missing."""

from __future__ import annotations

import ast
import posixpath
from dataclasses import dataclass

from flor_dagster.propagation.modules import (
    bound_by,
    local_imports,
    offered,
    parsed,
    runs_nothing,
    unbound_names,
)
from flor_dagster.propagation.statements import PACKAGES
from flor_dagster.propagation.trees import Counterparts, SourceTree, python_files


@dataclass(frozen=True, slots=True)
class Supplies:
    """Import statements that must come along: at the top of the file (ours), and before the statement."""

    top: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Missing:
    """A name that can't be had in the old version; `where` is the file that should offer it, if one should."""

    name: str
    where: str = ""


class Supplier:
    """Finds what the old version can offer for names of the new one.

    Args:
        new: the newer version.
        old: the older one.
        counterparts: which file is the counterpart of which.
    """

    def __init__(self, new: SourceTree, old: SourceTree, counterparts: Counterparts) -> None:
        self._new, self._old = new, old
        self._counterparts = counterparts
        self._new_paths, self._old_paths = python_files(new), python_files(old)

    def supply(self, path: str, target: str, patched: str, first: int, last: int) -> Supplies | Missing:
        """Imports for everything that lines of a patched file read and nothing there binds.

        Args:
            path: the statement's file in the new version.
            target: the file of the old version that it was put into.
            patched: that file's text with the statement.
            first: first line of the statement in it.
            last: last line.
        """
        module = parsed(patched)
        mine = self._module(self._new, path)
        if module is None or mine is None:
            return Missing("")
        top: list[str] = []
        before: list[str] = []
        names = unbound_names(module, first, last)
        for name in names:
            found = self._import_of(name, mine, path, target, module)
            if isinstance(found, Missing):
                return found
            (top if _is_ours(found) else before).append(ast.unparse(found))
        return Supplies(tuple(dict.fromkeys(top)), tuple(dict.fromkeys(before)), names)

    def wrong_import(self, path: str, target: str, text: str) -> Missing | None:
        """The first import in an added text that means something of the project that the old version lacks there.

        Args:
            path: the statement's file in the new version.
            target: the file of the old version that it was put into.
            text: the added lines, without indentation.
        """
        added = parsed(text)
        for wanted in local_imports(added, path, self._new_paths) if added is not None else ():
            other = self._counterparts.of(wanted.path)
            found = (
                [i for i in local_imports(added, target, self._old_paths) if i.bound == wanted.bound]
                if added
                else []
            )
            if other is None or not found or found[0].path != other or not self._offers(other, wanted.name):
                return Missing(wanted.name or wanted.bound, wanted.path)
            if not self._harmless(other, target):
                return Missing(wanted.name or wanted.bound, wanted.path)
        return None

    def other_value(self, path: str, target: str, patched: str, first: int, last: int) -> str | None:
        """A variable of the target file's top level that is read there and is another one than in the new version.

        In a file that is not the counterpart, an equal name is no sign of an equal meaning.
        """
        if self._counterparts.of(path) == target:
            return None
        module, mine = parsed(patched), self._module(self._new, path)
        if module is None or mine is None:
            return None
        read = {
            n.id
            for s in ast.walk(module)
            if isinstance(s, ast.stmt) and first <= s.lineno and (s.end_lineno or 0) <= last
            for n in ast.walk(s)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
        }
        local = set(unbound_names(_without_top(module, read), first, last))
        for name in sorted(read & local):
            theirs = _assigned(module, name)
            if theirs and theirs != _assigned(mine, name):
                return name
        return None

    def _import_of(
        self, name: str, mine: ast.Module, path: str, target: str, module: ast.Module
    ) -> ast.stmt | Missing:
        """An import that gives `name` in the target file what it is in the new version's file."""
        for node in ast.walk(mine):
            if not isinstance(node, (ast.Import, ast.ImportFrom)) or name not in bound_by(node):
                continue
            alone = _alone(node, name)
            local = local_imports(ast.Module([alone], []), path, self._new_paths)
            if not local:
                return alone
            other = self._counterparts.of(local[0].path)
            if other is None or not self._offers(other, local[0].name):
                return Missing(local[0].name or name, local[0].path)
            return self._written(other, local[0].name, name, target, module) or Missing(name, local[0].path)
        if name in offered(mine):
            # It is defined in the statement's own file; perhaps the old version has it in another one.
            other = self._counterparts.of(path)
            if other is not None and other != target and self._offers(other, name):
                return self._written(other, name, name, target, module) or Missing(name, path)
        return Missing(name)

    def _written(self, other: str, name: str, bound: str, target: str, module: ast.Module) -> ast.stmt | None:
        """An import of a file of the old version as the target file would write it, None where that is not plain."""
        if not self._harmless(other, target):
            return None
        renamed = bound if bound != (name or bound) else None
        for known in local_imports(module, target, self._old_paths):
            if known.path == other and isinstance(known.syntax, ast.ImportFrom) and known.name and name:
                return ast.ImportFrom(known.syntax.module, [ast.alias(name, renamed)], known.syntax.level)
        if posixpath.dirname(other) != posixpath.dirname(target) or other.endswith("__init__.py"):
            return None
        stem = posixpath.basename(other).removesuffix(".py")
        relative = any(isinstance(n, ast.ImportFrom) and n.level for n in ast.walk(module))
        if not name:
            if relative:
                return ast.ImportFrom(None, [ast.alias(stem, bound if bound != stem else None)], 1)
            return ast.Import([ast.alias(stem, bound if bound != stem else None)])
        return ast.ImportFrom(stem, [ast.alias(name, renamed)], 1 if relative else 0)

    def _harmless(self, other: str, target: str) -> bool:
        """Whether importing a file in another one runs nothing that would not have run."""
        importer, imported = self._module(self._old, target), self._module(self._old, other)
        if importer is None or imported is None:
            return False
        if any(i.path == other for i in local_imports(importer, target, self._old_paths)):
            return True
        back = any(i.path == target for i in local_imports(imported, other, self._old_paths))
        return runs_nothing(imported) and not back

    def _offers(self, path: str, name: str) -> bool:
        module = self._module(self._old, path)
        return module is not None and (not name or bool({name, "*"} & offered(module)))

    @staticmethod
    def _module(tree: SourceTree, path: str) -> ast.Module | None:
        text = tree.read(path)
        return parsed(text) if text is not None else None


def _alone(node: ast.Import | ast.ImportFrom, name: str) -> ast.Import | ast.ImportFrom:
    """The import of one name alone."""
    for alias in node.names:
        plain = alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name
        if (alias.asname or plain) == name:
            return (
                ast.Import([alias])
                if isinstance(node, ast.Import)
                else ast.ImportFrom(node.module, [alias], node.level)
            )
    return node


def _is_ours(syntax: ast.stmt) -> bool:
    if isinstance(syntax, ast.Import):
        return syntax.names[0].name.partition(".")[0] in PACKAGES
    return (
        isinstance(syntax, ast.ImportFrom)
        and not syntax.level
        and (syntax.module or "").partition(".")[0] in PACKAGES
    )


def _without_top(module: ast.Module, names: set[str]) -> ast.Module:
    """The file without the assignments of its top level: what is unbound then was a variable of the top level."""
    keep = [
        s
        for s in module.body
        if not (isinstance(s, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and names & set(bound_by(s)))
    ]
    return ast.Module(keep, [])


def _assigned(module: ast.Module, name: str) -> list[str]:
    """How a file's top level assigns a name."""
    return [
        ast.unparse(s)
        for s in module.body
        if isinstance(s, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and name in set(bound_by(s))
    ]
