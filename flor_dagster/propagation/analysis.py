"""Everything about a pair of versions that does not depend on which statement is asked for; kept for the next one."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache

from flor_dagster.propagation.carrying import Carrier
from flor_dagster.propagation.definitions import Definitions
from flor_dagster.propagation.facts import Facts
from flor_dagster.propagation.gaps import Gap
from flor_dagster.propagation.matching import Matching
from flor_dagster.propagation.nesting import Nesting
from flor_dagster.propagation.placing import Placer
from flor_dagster.propagation.renames import Renames
from flor_dagster.propagation.resolving import Names
from flor_dagster.propagation.statements import Aliases, Parsed, read
from flor_dagster.propagation.syntax import SCOPES, block_parts, is_elif_of
from flor_dagster.propagation.tokens import header_tokens
from flor_dagster.propagation.tree import Interner, Node, Tree, build

BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two versions, matched."""

    parsed_new: Parsed
    parsed_old: Parsed
    matching: Matching
    renames: Renames
    definitions_new: Definitions
    definitions_old: Definitions
    carrier: Carrier
    names: Names
    placer: Placer
    nodes_new: dict[int, Node]
    nodes_old: dict[int, Node]

    @property
    def new(self) -> Tree:
        """The new version's tree; statements that the old version can't have are left out."""
        return self.matching.new

    @property
    def old(self) -> Tree:
        """The old version's tree."""
        return self.matching.old

    def gap(self, statement: ast.stmt) -> Gap:
        """Where a statement of the new version stands."""
        left_out = self.new.gaps.get(id(statement))
        if left_out is not None:
            return Gap(*left_out)
        node = self.nodes_new[id(statement)]
        assert node.block is not None  # statements stand in blocks
        return Gap(node.block, node.index)


# Bounded, so that propagating through a long history keeps no more than the last few pairs.
@lru_cache(maxsize=4)
def analyse(new_source: str, old_source: str, lines: tuple[int, ...] = ()) -> Pair:
    """Match two versions.

    Args:
        new_source: The version that has the statements.
        old_source: The version that may lack them.
        lines: Lines of new statements that are no `flor.log` statements.

    Raises:
        SourceSyntaxError: one of them is no Python; the message says which.
    """
    parsed_new, parsed_old = read(new_source, "new version"), read(old_source, "old version")
    module_new, module_old = parsed_new.module, parsed_old.module
    known = {f.statement.name for f in parsed_old.found}
    fresh = {id(f.syntax) for f in parsed_new.found if f.form == "alone" and f.statement.name not in known}
    if lines:
        fresh |= {
            id(s)
            for s in ast.walk(module_new)
            if isinstance(s, ast.stmt) and s.lineno in lines and _simple(s)
        }
    interner = Interner()
    facts: dict[int, Facts] = {}
    spelled = (parsed_new.spelled, parsed_old.spelled)
    old = build(old_source, interner, module=module_old)
    headers = {n.text for n in old.nodes if n.is_compound}
    left_out = frozenset(fresh | _all_new(module_new, fresh, headers, interner))
    new, definitions_new, matching, renames = _matched(
        new_source, module_new, left_out, old, interner, facts, spelled
    )
    own = {n for n in _all_new(module_new, fresh, set(), interner) - left_out if _unmatched(matching, n)}
    if own:
        # The old version has such a line, but for another branch: this one is new.
        left_out |= own
        new, definitions_new, matching, renames = _matched(
            new_source, module_new, left_out, old, interner, facts, spelled
        )
    definitions_old = Definitions(old)
    carrier = Carrier(matching, definitions_new, definitions_old)
    ours = parsed_new.spelled.roots
    names = Names(matching, renames, definitions_new, definitions_old, carrier, ours)
    nesting = (Nesting(new, parsed_new.spelled), Nesting(old, parsed_old.spelled))
    placer = Placer(matching, definitions_new, definitions_old, names, nesting)
    return Pair(
        parsed_new,
        parsed_old,
        matching,
        renames,
        definitions_new,
        definitions_old,
        carrier,
        names,
        placer,
        {id(n.syntax): n for n in new.nodes},
        {id(n.syntax): n for n in old.nodes},
    )


def _matched(
    source: str,
    module: ast.Module,
    left_out: frozenset[int],
    old: Tree,
    interner: Interner,
    facts: dict[int, Facts],
    spelled: tuple[Aliases, Aliases],
) -> tuple[Tree, Definitions, Matching, Renames]:
    """Match a new version without some of its statements with an old tree."""
    new = build(source, interner, module=module, without=left_out, facts=facts)
    matching = Matching(new, old, spelled)
    renames = Renames(matching)
    clean = renames.clean(_all_names(new), _all_names(old))
    if clean:
        # Once more, speaking the old version's names: what differed in names only is now equal.
        new = build(source, interner, module=module, without=left_out, renames=clean, facts=facts)
        matching = Matching(new, old, spelled)
        renames = Renames(matching)
    return new, Definitions(new), matching, renames


def _unmatched(matching: Matching, syntax: int) -> bool:
    return all(id(n.syntax) != syntax for n in matching.new.nodes if n.number in matching.partner)


def _simple(statement: ast.stmt) -> bool:
    return not any(True for _ in block_parts(statement))


def _all_names(tree: Tree) -> frozenset[str]:
    return frozenset(t[2:] for node in tree.nodes for t in node.tokens if t[:2] == "n:")


def _all_new(module: ast.Module, fresh: set[int], headers: set[int], interner: Interner) -> set[int]:
    """Compound statements that hold nothing but new statements, and whose line the old version does not have."""
    found: set[int] = set()
    if not fresh:
        return found

    def visit(syntax: ast.stmt | ast.Module, *, is_elif: bool) -> bool:
        """Whether a statement is new as a whole."""
        parts = list(block_parts(syntax))
        if not parts:
            return id(syntax) in fresh
        inner = [
            visit(s, is_elif=is_elif_of(syntax, role, body)) or isinstance(s, ast.Pass)
            for role, _, body in parts
            for s in body
        ]
        if not all(inner) or isinstance(syntax, (*SCOPES, ast.Module)):
            return False
        if not any(id(n) in fresh for n in ast.walk(syntax)):
            return is_elif  # it holds nothing but `pass`
        # An `elif` means something only after the branches before it: it is new with them, or stays.
        if is_elif:
            return True
        tokens: list[str] = []
        header_tokens(syntax, tokens, {})
        if interner(tuple(tokens)) in headers:
            return False
        found.add(id(syntax))
        return True

    visit(module, is_elif=False)
    return found
