"""What a dotted name or a literal key is called in the old version, or why it can't be read there."""

from __future__ import annotations

import re

from flor_dagster.propagation.definitions import Definitions
from flor_dagster.propagation.matching import Matching
from flor_dagster.propagation.paths import scope_of
from flor_dagster.propagation.renames import Renames
from flor_dagster.propagation.resolved import Position, Resolved
from flor_dagster.propagation.tree import Block, Node
from flor_dagster.propagation.updates import Updates

CONFIG = re.compile(
    r"(args?|opts?|options|cfg|conf|config|c|hp|hps|hyp|hparams|params|flags|settings|ns)(\.|$)",
    re.IGNORECASE,
)
"""Objects that carry settings; their attributes are the settings' names."""


class Attributes:
    """Resolves attributes and keys of the new version at places of the old one."""

    def __init__(
        self, matching: Matching, renames: Renames, new: Definitions, old: Definitions, updates: Updates
    ) -> None:
        self._updates = updates
        self._matching = matching
        self._renames = renames
        self._new, self._old = new, old
        self._chains = {chain for node in matching.old.nodes for chain in node.facts.chains}
        self._words_new, self._words_old = _words(matching.new.nodes), _words(matching.old.nodes)
        self._keys_new, self._strings_old = _keys(matching.new.nodes), _strings(matching.old.nodes)
        self._class_members: dict[tuple[bool, int], frozenset[str]] = {}

    def known(self, chain: str) -> bool:
        """Whether the old version has a dotted name."""
        return chain in self._chains

    def attribute(self, chain: str, owner: Resolved, at: Position, old_at: Position) -> Resolved:
        """Resolve a dotted name: what it stands for must exist, and the assignments that reach must be the same."""
        (block, index), (old_block, old_index) = at, old_at
        name, attribute = chain.split(".")[0], chain.split(".")[1]
        if chain.count(".") == 1 and self._is_data(name, block, index):
            if owner.refused is None and owner.old_name != name:
                # `args` may be `cfg` now, and `args.width` still not be `cfg.width`.
                direct = f"{owner.old_name}.{attribute}"
                if not any(covers(direct, c) for c in self._chains):
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
        if chain.count(".") > 1 and owner.refused is None and owner.old_name != name:
            # What another object is called by that name need not have the same parts.
            direct = f"{owner.old_name}.{attribute}"
            if not any(covers(direct, c) for c in self._chains):
                other = self._renamed_chain(chain, scope_of(block), old_at)
                if other is not None:
                    return Resolved(chain, other, 0.5)
                return Resolved(chain, chain, -3.0, refused="no-attribute")
        reach = self._new.reach(block, index, chain)
        partners = self._matching.partner
        expected = {partners[d].number for d in reach.definitions if d in partners}
        if not expected:
            return Resolved(chain, chain, 0.0)
        found = self._old.reach(old_block, old_index, chain)
        if self._updates.differ(chain, reach.definitions, found.definitions, at, old_at):
            return Resolved(chain, chain, -1.6, refused="other-definition")
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
        if not (CONFIG.match(chain.partition(".")[0])):
            return None
        same = sorted(
            c
            for c in self._chains
            if c.rpartition(".")[2] == last and CONFIG.match(c) and c != chain and usable(c)
        )
        return same[0] if len(same) == 1 else None

    def key(self, key: str) -> Resolved:
        """A literal subscript that the new version makes and the old one never mentions is lost."""
        lost = key in self._keys_new and key not in self._strings_old
        return Resolved(
            f"['{key}']", f"['{key}']", -3.0 if lost else 0.0, refused="no-attribute" if lost else None
        )


def covers(moved: str, chain: str) -> bool:
    """Whether a dotted name is another one, or starts with it."""
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
