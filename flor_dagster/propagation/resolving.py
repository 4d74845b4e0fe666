"""What a name read by a new statement is called at a place of the old version, or why it can't be read there."""

from __future__ import annotations

import ast

from flor_dagster.propagation.attributes import Attributes, covers
from flor_dagster.propagation.carrying import SHADOWING, Carrier, stars
from flor_dagster.propagation.definitions import Definitions, Reach
from flor_dagster.propagation.matching import Matching
from flor_dagster.propagation.names import imported, parameters
from flor_dagster.propagation.paths import scope_of
from flor_dagster.propagation.reads import Reads
from flor_dagster.propagation.renames import Renames
from flor_dagster.propagation.resolved import Position, Resolved
from flor_dagster.propagation.tree import Block, Node
from flor_dagster.propagation.updates import Updates, converts, updates


class Names:
    """Resolves names of the new version at places of the old one."""

    def __init__(
        self,
        matching: Matching,
        renames: Renames,
        new: Definitions,
        old: Definitions,
        carrier: Carrier,
        ours: frozenset[str],
    ) -> None:
        self._carrier = carrier
        self._packed: dict[tuple[str, int, frozenset[int]], bool] = {}
        self._matching = matching
        self._renames = renames
        self._new = new
        self._old = old
        self._updates = Updates(matching, new)
        self._attributes = Attributes(matching, renames, new, old, self._updates)
        self._scope_names: dict[tuple[bool, int], frozenset[str]] = {}
        self._ours = ours
        self._stars_new, self._stars_old = stars(matching.new.nodes), stars(matching.old.nodes)
        self._read_new = frozenset(n for node in matching.new.nodes for n in node.facts.names)
        self._read_old = frozenset(n for node in matching.old.nodes for n in node.facts.names)
        self._imports_new = _imports(matching.new.nodes)
        self._imports_old = _imports(matching.old.nodes)
        self._old_by_target = {
            target: name for name, target in sorted(self._imports_old.items(), reverse=True)
        }

    def resolve(self, reads: Reads, at: Position, old_at: Position) -> tuple[Resolved, ...]:
        """Resolve everything that is read at a place of the new version at a place of the old one."""
        found: list[Resolved] = []
        free: set[str] = set()  # names that are needed for nothing but a dotted name that is called otherwise
        plain = {name: self._name(name, at, old_at) for name in reads.names}
        for name in reads.names:
            chains = [c for c in reads.chains if c.partition(".")[0] == name]
            resolved = [self._attributes.attribute(c, plain[name], at, old_at) for c in chains]
            moved = {r.name for r in resolved if r.refused is None and r.name != r.old_name}
            if moved and name not in reads.bare and all(any(covers(m, c) for m in moved) for c in chains):
                free.add(name)
            if name not in free:
                found.append(plain[name])
            found.extend(r for r in resolved if name not in free or r.name in moved)
        found.extend(self._attributes.key(key) for key in reads.keys)
        return tuple(found)

    def readable(self, block: Block, index: int) -> list[str]:
        """Names of the old version that are certainly assigned at a place."""
        scopes = [scope_of(block), self._matching.old.root]
        names = {n for scope in scopes for n in self._old.local_names(scope)}
        return sorted(n for n in names if self._old.reach(block, index, n).definite)

    def _name(self, name: str, at: Position, old_at: Position) -> Resolved:
        """Resolve one plain name."""
        (block, index), (old_block, old_index) = at, old_at
        reach = self._new.reach(block, index, name)
        if reach.origin in ("none", "builtin", "star"):
            return self._unbound(name, reach, old_at)
        best: Resolved | None = None
        for other, weight in self._options(name, scope_of(block), scope_of(old_block), reach):
            root = other.partition(".")[0]
            found = self._judge(
                name, other, weight, reach, self._old.reach(old_block, old_index, root), at, old_at
            )
            if best is None or (found.refused is None, found.score) > (best.refused is None, best.score):
                best = found
        if best is not None and best.refused is None:
            return best
        carried = self._carried(name, reach, old_at)
        if carried is not None:
            return carried
        return best or Resolved(name, name, -5.0, refused="no-variable")

    # ------------------------------------------------------------------ plain names

    def _unbound(self, name: str, reach: Reach, old_at: Position) -> Resolved:
        """Resolve a name that no statement of the new version binds: a builtin, or something from elsewhere."""
        found = self._old.reach(*old_at, name)
        if reach.origin == "none" and name in self._ours:
            return Resolved(name, name, 0.0)
        if reach.origin == "builtin":
            same = found.origin == "builtin" and not self._shadowed(name)
            return Resolved(name, name, 0.0 if same else -5.0, refused=None if same else "other-definition")
        if reach.origin == "star":
            if found.origin == "star" and (self._stars_new & self._stars_old or name in self._read_old):
                return Resolved(name, name, 0.0)
            if found.bound and found.origin != "star":
                definite = found.definite
                return Resolved(
                    name, name, 0.0 if definite else -3.0, refused=None if definite else "not-definite"
                )
            if self._carrier.pack(name, *old_at) is not None:
                return Resolved(name, name, -0.5, carry=True)
        # Put there by `exec` or from outside: only where both versions count on it.
        known = not found.bound and name in self._read_new and name in self._read_old
        return Resolved(name, name, 0.0 if known else -5.0, refused=None if known else "no-variable")

    def _shadowed(self, name: str) -> bool:
        """Whether a star import that only the old version has is known to bring a builtin's name."""
        return any(name in SHADOWING.get(m, ()) for m in self._stars_old - self._stars_new)

    def _options(self, name: str, scope: Node, old: Node, reach: Reach) -> list[tuple[str, float]]:
        """Names that the old version may use, with the weight of what speaks for each."""
        weights: dict[str, float] = {name: 0.3}
        support: dict[str, float] = {}
        for definition in sorted(reach.definitions):
            other = self._renames.binding(definition, name)
            if other is not None:
                weights[other] = weights.get(other, 0.0) + 1.0
                support[other] = support.get(other, 0.0) + 2.0
        local, overall = self._renames.votes(scope, name), self._renames.everywhere(name)
        for votes, factor in ((local, 1.0), (overall, 0.4)):
            total = votes.total()
            for other, count in sorted(votes.items()):
                weights[other] = weights.get(other, 0.0) + factor * count / (total + 0.5)
        for other, count in sorted(local.items()):
            support[other] = support.get(other, 0.0) + count
        target = self._imports_new.get(name)
        if target is not None and target in self._old_by_target:
            other = self._old_by_target[target]
            weights[other] = weights.get(other, 0.0) + 2.0
            support[other] = 9.0
        options = [
            (o, w) for o, w in weights.items() if o == name or self._believed(name, o, scope, old, support)
        ]
        return sorted(options, key=lambda w: (-w[1], w[0]))

    def _believed(self, name: str, other: str, scope: Node, old: Node, support: dict[str, float]) -> bool:
        """Whether `other` can be what the old version calls `name`.

        A name that is new on one side and gone on the other needs little to be a rename. Where both versions know
        both names, or one of them, each most likely kept its meaning.
        """
        mine, theirs = self._names_in(scope, new=True), self._names_in(old, new=False)
        weight = support.get(other, 0.0)
        if name not in theirs and other not in mine:
            return weight >= 2
        itself = max(support.get(name, 0.0), self._renames.votes(scope, other)[other])
        return weight >= 4 and weight >= 3 * itself

    def _names_in(self, scope: Node, *, new: bool) -> frozenset[str]:
        known = self._scope_names.get((new, scope.number))
        if known is None:
            tree = self._matching.new if new else self._matching.old
            inside = tree.nodes[scope.number : scope.last + 1]
            known = frozenset(n for node in inside if node.scope is scope for n in node.facts.names)
            if isinstance(scope.syntax, (ast.FunctionDef, ast.AsyncFunctionDef)):
                known |= frozenset(parameters(scope.syntax.args))
            self._scope_names[new, scope.number] = known
        return known

    def _judge(
        self, name: str, other: str, weight: float, reach: Reach, found: Reach, at: Position, old_at: Position
    ) -> Resolved:
        if not found.bound or found.origin == "builtin":
            return Resolved(name, other, weight - 5.0, refused="no-variable")
        if "." in other:
            known = self._attributes.known(other) and found.definite
            return Resolved(name, other, weight - 0.5, refused=None if known else "no-variable")
        if found.origin == "star" and reach.origin != "star" and not self._imported(reach):
            return Resolved(name, other, weight - 5.0, refused="no-variable")
        partners = self._matching.partner
        reaching = self._through_conversions(reach.definitions, name)
        expected = {partners[d].number for d in reaching if d in partners}
        hits = found.definitions & expected
        if not hits and self._is_code(other, found, new=False) != self._is_code(name, reach, new=True):
            kind = "other-definition" if name == other else "no-variable"
            return Resolved(name, other, weight - 5.0, refused=kind)
        score = min(weight, 1.5)
        if reach.definite and not found.definite:
            return Resolved(name, other, score - 3.0, refused="not-definite")
        foreign = [
            d
            for d in found.definitions - expected
            if (source := self._matching.back.get(d)) is not None
            and source.number not in reaching
            and name in self._new.bindings(source)
        ]
        # What a parameter stands for is decided by callers: another name for the same thing, perhaps.
        handed = any(self._matching.new.nodes[d].kind == "def" for d in reaching)
        later = [d for d in foreign if self._later(self._matching.back[d], at)]
        if (foreign and not hits and not handed) or later:
            return Resolved(name, other, score - 1.6, refused="other-definition")
        if reach.origin == "local" and found.origin == "local" and self._lost(name, other, reaching, found):
            return Resolved(name, other, score - 1.6, refused="other-definition")
        if self._updates.differ(name, reaching, found.definitions, at, old_at):
            return Resolved(name, other, score - 1.6, refused="other-definition")
        if hits and not foreign:
            score += 1.0
        elif foreign and not hits:
            score -= 1.6
        elif foreign:
            score -= 0.8
        elif expected and reach.origin == "local" and found.origin == "local":
            score -= 1.6
        return Resolved(name, other, score)

    def _through_conversions(self, definitions: frozenset[int], name: str) -> frozenset[int]:
        """Definitions of a name, and where one only converts it in a way of its own, those before it."""
        found: set[int] = set()
        todo = list(definitions)
        while todo:
            number = todo.pop()
            if number in found:
                continue
            found.add(number)
            node = self._matching.new.nodes[number]
            if converts(node, name) and node.block is not None and number not in self._matching.partner:
                todo.extend(self._new.reach(node.block, node.index, name).definitions)
        return frozenset(found)

    def _later(self, definition: Node, at: Position) -> bool:
        """Whether a definition of the new version stands behind the statement, outside of every loop around it."""
        block, index = at
        site = self._matching.new_sites.get(scope_of(block).number)
        if site is not None and site.scope is definition.scope and definition.scope is not scope_of(block):
            after, inside = site.number, site.loop  # what calls the statement's function comes before it runs
        else:
            after = block.items[index].number if index < len(block.items) else block.owner.last + 1
            inside = block.owner if block.owner.kind == "loop" else block.owner.loop
        return definition.number >= after and (inside is None or not inside.contains(definition))

    def _lost(self, name: str, other: str, reaching: frozenset[int], found: Reach) -> bool:
        """Whether a definition that reaches the statement has no counterpart among those that reach the place."""
        partners = self._matching.partner
        nodes = [self._matching.new.nodes[d] for d in reaching]
        theirs = [self._matching.old.nodes[d] for d in self._through_site(found.definitions, other)]
        if any(n.kind == "def" for n in (*nodes, *theirs)):
            return False
        if any(n.kind == "loop" for n in (*nodes, *theirs)):
            # What one version counts itself, a loop counts in the other one.
            nodes = [n for n in nodes if n.kind != "loop" and not _counts(n)]
            theirs = [n for n in theirs if n.kind != "loop" and not _counts(n)]
        known = {n.number for n in theirs}
        counterparts = [o for n in nodes if (o := partners.get(n.number)) is not None]
        if counterparts and theirs and not known & {o.number for o in counterparts}:
            return True
        made = [n for n in nodes if updates(n, name)]
        if any(n.number not in partners for n in made):
            return True
        return not made and any(n.number not in self._matching.back and updates(n, other) for n in theirs)

    def _through_site(self, definitions: frozenset[int], name: str) -> frozenset[int]:
        """Definitions of a parameter where its function is called, if it is called from one place and by that name."""
        found: set[int] = set()
        for number in definitions:
            site = self._matching.old_sites.get(number)
            if site is None or site.block is None or name not in site.facts.names:
                found.add(number)
            else:
                found |= self._old.reach(site.block, site.index, name).definitions
        return frozenset(found)

    def _is_code(self, name: str, reach: Reach, *, new: bool) -> bool:
        """Whether a name is a function, class or module: a variable never becomes one by a rename."""
        nodes = self._matching.new.nodes if new else self._matching.old.nodes
        kinds = ("def", "class", "import")
        # A parameter is defined by its function, too, which has another name.
        return any(nodes[d].kind in kinds and nodes[d].name in ("", name) for d in reach.definitions)

    def _imported(self, reach: Reach) -> bool:
        nodes = [self._matching.new.nodes[d] for d in reach.definitions]
        return bool(nodes) and all(n.kind == "import" for n in nodes)

    def _carried(self, name: str, reach: Reach, old_at: Position) -> Resolved | None:
        """What the new version imports or defines itself, and the old one does not have."""
        sites = self._new.module_sites(name)
        if not self._imported(reach) and reach.origin != "module" and reach.definitions != sites:
            return None
        # Where it is a helper of the new version that nothing in the old one is the counterpart of.
        key = (name, scope_of(old_at[0]).number, reach.definitions)
        if key not in self._packed:
            self._packed[key] = self._carrier.pack(name, *old_at, reach.definitions) is not None
        return (
            Resolved(name, name, -0.5, carry=True, definitions=reach.definitions)
            if self._packed[key]
            else None
        )


def _counts(node: Node) -> bool:
    """Whether a statement is `i += 1`."""
    return isinstance(node.syntax, ast.AugAssign) and isinstance(node.syntax.value, ast.Constant)


def _imports(nodes: list[Node]) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node.syntax, (ast.Import, ast.ImportFrom)):
            found.update(imported(node.syntax))
    return found
