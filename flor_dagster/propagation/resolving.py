"""What a name read by a new statement is called at a place of the old version, or why it can't be read there."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from flor_dagster.propagation.carrying import SHADOWING, Carrier, stars
from flor_dagster.propagation.definitions import Definitions, Reach
from flor_dagster.propagation.matching import Matching
from flor_dagster.propagation.model import RefusalKind
from flor_dagster.propagation.names import imported, parameters
from flor_dagster.propagation.paths import scope_of
from flor_dagster.propagation.reads import Reads
from flor_dagster.propagation.renames import Renames
from flor_dagster.propagation.tree import Block, Node

# Objects that carry settings; their attributes are the settings' names.
_CONFIG = re.compile(
    r"(args?|opts?|options|cfg|conf|config|c|hp|hps|hyp|hparams|params|flags|settings|ns)(\.|$)",
    re.IGNORECASE,
)

Position = tuple[Block, int]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A name, what it is called in the old version, and how well the definitions agree.

    `refused` is why it can't be read there; `carry` says that an import or helper must come along, made by the
    `definitions` of the new version.
    """

    name: str
    old_name: str
    score: float
    refused: RefusalKind | None = None
    carry: bool = False
    definitions: frozenset[int] = frozenset()


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
        self._chains = {chain for node in matching.old.nodes for chain in node.facts.chains}
        self._words_new, self._words_old = _words(matching.new.nodes), _words(matching.old.nodes)
        self._keys_new, self._strings_old = _keys(matching.new.nodes), _strings(matching.old.nodes)
        self._class_members: dict[tuple[bool, int], frozenset[str]] = {}
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
            resolved = [self._attribute(c, plain[name], at, old_at) for c in chains]
            moved = {r.name for r in resolved if r.refused is None and r.name != r.old_name}
            if moved and name not in reads.bare and all(any(_covers(m, c) for m in moved) for c in chains):
                free.add(name)
            if name not in free:
                found.append(plain[name])
            found.extend(r for r in resolved if name not in free or r.name in moved)
        found.extend(self._key(key) for key in reads.keys)
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
            found = self._judge(name, other, weight, reach, self._old.reach(old_block, old_index, root))
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

    def _judge(self, name: str, other: str, weight: float, reach: Reach, found: Reach) -> Resolved:
        if not found.bound or found.origin == "builtin":
            return Resolved(name, other, weight - 5.0, refused="no-variable")
        if "." in other:
            known = other in self._chains and found.definite
            return Resolved(name, other, weight - 0.5, refused=None if known else "no-variable")
        if found.origin == "star" and reach.origin != "star" and not self._imported(reach):
            return Resolved(name, other, weight - 5.0, refused="no-variable")
        partners = self._matching.partner
        reaching = self._through_updates(reach.definitions, name)
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
        if hits and not foreign:
            score += 1.0
        elif foreign and not hits:
            # What a parameter stands for is decided by callers: another name for the same thing, perhaps.
            handed = any(self._matching.new.nodes[d].kind == "def" for d in reaching)
            return Resolved(name, other, score - 1.6, refused=None if handed else "other-definition")
        elif foreign:
            score -= 0.8
        elif expected and reach.origin == "local" and found.origin == "local":
            score -= 1.6
        return Resolved(name, other, score)

    def _through_updates(self, definitions: frozenset[int], name: str) -> frozenset[int]:
        """Definitions of a name, and where one only updates it (`x /= n`) in a way of its own, those before it."""
        found: set[int] = set()
        todo = list(definitions)
        while todo:
            number = todo.pop()
            if number in found:
                continue
            found.add(number)
            node = self._matching.new.nodes[number]
            updates = node.kind == "assign" and name in node.facts.certain and node.block is not None
            if updates and node.block is not None and number not in self._matching.partner:
                todo.extend(self._new.reach(node.block, node.index, name).definitions)
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

    # ------------------------------------------------------------------ attributes

    def _attribute(self, chain: str, owner: Resolved, at: Position, old_at: Position) -> Resolved:
        """Resolve a dotted name: what it stands for must exist, and the assignments that reach must be the same."""
        (block, index), (old_block, old_index) = at, old_at
        name, attribute = chain.split(".")[0], chain.split(".")[1]
        if chain.count(".") == 1 and self._is_data(name, block, index):
            if owner.refused is None and owner.old_name != name:
                # `args` may be `cfg` now, and `args.width` still not be `cfg.width`.
                direct = f"{owner.old_name}.{attribute}"
                if not any(_covers(direct, c) for c in self._chains):
                    other = self._renamed_chain(chain, scope_of(block), old_at)
                    if other is not None:
                        return Resolved(chain, other, 0.5)
            lost = owner.refused is not None or not self._has(owner.old_name, attribute, old_block)
            if lost and (owner.refused is not None or self._defines(name, attribute, block)):
                other = self._renamed_chain(chain, scope_of(block), old_at)
                if other is not None:
                    return Resolved(chain, other, 0.5)
                if owner.refused is None:
                    return Resolved(chain, chain, -3.0, refused="no-attribute")
        reach = self._new.reach(block, index, chain)
        partners = self._matching.partner
        expected = {partners[d].number for d in reach.definitions if d in partners}
        if not expected:
            return Resolved(chain, chain, 0.0)
        found = self._old.reach(old_block, old_index, chain)
        return Resolved(chain, chain, 1.0 if found.definitions & expected else -1.6)

    def _is_data(self, name: str, block: Block, index: int) -> bool:
        """Whether attributes of a name are state of this file, and not what a library offers."""
        reach = self._new.reach(block, index, name)
        kinds = {self._matching.new.nodes[d].kind for d in reach.definitions}
        return bool(kinds) and "import" not in kinds

    def _has(self, owner: str, attribute: str, block: Block) -> bool:
        """Whether the old version knows an attribute; one of `self` must be known to the same class."""
        if owner == "self":
            cls = _class_of(block)
            if cls is not None:
                return attribute in self._members(cls, new=False)
        return attribute in self._words_old

    def _defines(self, owner: str, attribute: str, block: Block) -> bool:
        """Whether the new version itself makes the attribute (or seems to), so that its absence means something."""
        if owner == "self":
            cls = _class_of(block)
            return cls is not None and attribute in self._members(cls, new=True)
        return attribute in self._words_new

    def _members(self, cls: Node, *, new: bool) -> frozenset[str]:
        known = self._class_members.get((new, cls.number))
        if known is None:
            tree = self._matching.new if new else self._matching.old
            members: set[str] = set()
            for node in tree.nodes[cls.number + 1 : cls.last + 1]:
                if node.scope is cls:
                    members.update(node.facts.bound)
                members.update(c.split(".")[1] for c in node.facts.chains if c.startswith("self."))
            known = self._class_members[new, cls.number] = frozenset(members)
        return known

    def _renamed_chain(self, chain: str, scope: Node, old_at: Position) -> str | None:
        """What a dotted name is called in the old version, by votes or by its last part alone."""
        block, index = old_at

        def usable(other: str) -> bool:
            found = self._old.reach(block, index, other.partition(".")[0])
            return found.definite and found.bound and ("." not in other or other in self._chains)

        for votes in (self._renames.votes(scope, chain), self._renames.everywhere(chain)):
            ranked = sorted(votes.items(), key=lambda v: (-v[1], v[0]))
            for other, count in ranked:
                if other != chain and count >= 1 and usable(other):
                    return other
        # Configuration moves from one object to another, and keeps the names of what it configures.
        last = chain.rpartition(".")[2]
        if not (_CONFIG.match(chain.partition(".")[0])):
            return None
        same = sorted(
            c
            for c in self._chains
            if c.rpartition(".")[2] == last and _CONFIG.match(c) and c != chain and usable(c)
        )
        return same[0] if len(same) == 1 else None

    def _key(self, key: str) -> Resolved:
        """A literal subscript that the new version makes and the old one never mentions is lost."""
        lost = key in self._keys_new and key not in self._strings_old
        return Resolved(
            f"['{key}']", f"['{key}']", -3.0 if lost else 0.0, refused="no-attribute" if lost else None
        )


def _covers(moved: str, chain: str) -> bool:
    return chain == moved or chain.startswith(moved + ".")


def _class_of(block: Block) -> Node | None:
    scope: Node | None = scope_of(block)
    while scope is not None and scope.kind != "class":
        scope = scope.scope
    return scope


def _words(nodes: list[Node]) -> frozenset[str]:
    """Names, attributes, keywords and the words of options (`--batch-size`), as attributes would spell them."""
    words: set[str] = set()
    for node in nodes:
        for token in node.tokens:
            text = token[1:] if token[0] == "-" else token[2:]
            words.add(text.lstrip("-").replace("-", "_"))
    return frozenset(words)


def _strings(nodes: list[Node]) -> frozenset[str]:
    return frozenset(t[1:] for node in nodes for t in node.tokens if t[0] == "-")


def _keys(nodes: list[Node]) -> frozenset[str]:
    """Literal keys that a file puts into mappings itself."""
    return frozenset(key for node in nodes for key in node.facts.keys)


def _imports(nodes: list[Node]) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node.syntax, (ast.Import, ast.ImportFrom)):
            found.update(imported(node.syntax))
    return found
