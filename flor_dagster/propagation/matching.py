"""Which statement of the old version is the counterpart of which statement of the new one.

The order matters, safest first: functions by their qualified names, identical statements that are unique, then blocks of
matched statements aligned item by item, containers by what they hold, and code that one side wraps in something the
other side lacks (a `with`, a `try`, an extracted function). The steps feed each other and are repeated.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from flor_dagster.propagation.aligning import EQUAL, Aligner
from flor_dagster.propagation.callsites import unique_call_sites
from flor_dagster.propagation.likeness import Likeness, dice_of, targets_of, within
from flor_dagster.propagation.statements import Aliases, loop_name
from flor_dagster.propagation.tree import Block, Node, Tree

_ROUNDS = 3
_MOST_FUNCTIONS = 40_000  # pairs of functions whose contents are compared
_FEW = 20
_SOLE_LOOP = 0.3  # least likeness of two loops that are the only ones left at their place
_MOVED = 4  # tokens of a statement that is told by its text alone


class Matching:
    """Counterparts of the statements of two trees; `partner` and `back` are each other's inverse."""

    def __init__(self, new: Tree, old: Tree, spelled: tuple[Aliases, Aliases]) -> None:
        self.new = new
        self.old = old
        self._spelled = spelled
        self.partner: dict[int, Node] = {}
        self.back: dict[int, Node] = {}
        self.new_sites = unique_call_sites(new)
        self.old_sites = unique_call_sites(old)
        self._calls_new = {s.number: new.nodes[f] for f, s in self.new_sites.items()}
        self._calls_old = {s.number: old.nodes[f] for f, s in self.old_sites.items()}
        self.likeness = Likeness(new, old, self._calls_new, self._calls_old)
        self._aligner = Aligner(self.partner, self.back, self.likeness)
        self._having: dict[object, list[Node]] | None = None
        self._match()

    def old_of(self, node: Node) -> Node | None:
        """Counterpart in the old tree."""
        return self.partner.get(node.number)

    def new_of(self, node: Node) -> Node | None:
        """Counterpart in the new tree."""
        return self.back.get(node.number)

    # ------------------------------------------------------------------ the steps

    def _match(self) -> None:
        self._pair(self.new.root, self.old.root)
        self._functions_by_name()
        self._functions_by_content()
        self._loops_by_name()
        self._unique_in_functions()
        self._containers(least=0.5, same_depth=True)
        self._rounds()
        if self._loops_left_over():
            self._rounds()
        self._between_callers()
        self._leftovers()

    def _rounds(self) -> None:
        for _ in range(_ROUNDS):
            before = len(self.partner)
            self._align_all()
            self._containers()
            self._same_targets()
            self._wrapped()
            self._unique_anywhere()
            if len(self.partner) == before:
                break

    def _pair(self, a: Node, b: Node) -> None:
        self.partner[a.number] = b
        self.back[b.number] = a

    def _free(self, a: Node, b: Node) -> bool:
        return a.number not in self.partner and b.number not in self.back

    def _pair_trees(self, a: Node, b: Node) -> None:
        """Pair two identical subtrees, statement by statement."""
        for x, y in zip(a.walk(), b.walk(), strict=True):
            if self._free(x, y):
                self._pair(x, y)

    def _functions_by_name(self) -> None:
        def scopes(tree: Tree) -> dict[str, list[Node]]:
            found: dict[str, list[Node]] = defaultdict(list)
            for node in tree.nodes[1:]:
                if node.is_scope:
                    found[f"{node.kind} {tree.qualified(node)}"].append(node)
            return found

        olds = scopes(self.old)
        for name, news in scopes(self.new).items():
            others = olds.get(name, [])
            if len(news) == len(others):
                for a, b in zip(news, others, strict=True):
                    self._pair(a, b)

    def _functions_by_content(self) -> None:
        """Functions that were renamed, or moved into or out of a class, by what they hold."""
        news = [n for n in self.new.nodes if n.kind in ("def", "class") and n.number not in self.partner]
        olds = [n for n in self.old.nodes if n.kind in ("def", "class") and n.number not in self.back]
        ranked: list[tuple[float, int, int]] = []
        for a in news:
            for b in olds if len(news) * len(olds) <= _MOST_FUNCTIONS else self._sharing(a, olds):
                if a.kind == b.kind:
                    share = self.likeness.shared_content(a, b)
                    if a.name == b.name:
                        share = 0.4 + 0.6 * share
                    ranked.append((share, a.number, b.number))
        for share, x, y in sorted(ranked, key=lambda r: (-r[0], r[1], r[2])):
            a, b = self.new.nodes[x], self.old.nodes[y]
            if share >= 0.5 and self._free(a, b):
                self._pair(a, b)

    def _loops_by_name(self) -> None:
        """Named loops whose name each side has once: `flor.loop("epoch", …)` names a loop for good."""
        olds = _named_loops(self.old, self._spelled[1])
        for name, news in _named_loops(self.new, self._spelled[0]).items():
            theirs = olds.get(name, [])
            if len(news) == len(theirs) == 1 and self._free(news[0], theirs[0]):
                self._pair(news[0], theirs[0])

    def _sharing(self, a: Node, olds: Sequence[Node]) -> Sequence[Node]:
        """Functions of a long file that have one's name, or a statement of it that few have."""
        if self._having is None:
            self._having = defaultdict(list)
            for b in olds:
                for key in {b.name, *(n.text for n in list(b.walk())[1:])}:
                    self._having[key].append(b)
        found: dict[int, Node] = {}
        for key in (a.name, *(n.text for n in list(a.walk())[1:])):
            having = self._having.get(key, ())
            if len(having) <= _FEW:
                found.update((b.number, b) for b in having)
        return list(found.values())

    def _unique_in_functions(self) -> None:
        for scope in [n for n in self.new.nodes if n.is_scope]:
            other = self.old_of(scope)
            if other is None:
                continue
            mine = [n for n in within(self.new, scope) if n.number not in self.partner]
            theirs = [n for n in within(self.old, other) if n.number not in self.back]
            self._pair_unique(mine, theirs, least=1)

    def _unique_anywhere(self) -> None:
        mine = [n for n in self.new.nodes if n.number not in self.partner]
        theirs = [n for n in self.old.nodes if n.number not in self.back]
        self._pair_unique(mine, theirs, least=8)

    def _pair_unique(self, mine: Sequence[Node], theirs: Sequence[Node], least: int) -> None:
        """Pair identical subtrees that occur once on either side, the largest first."""
        table_new: dict[int, list[Node]] = defaultdict(list)
        table_old: dict[int, list[Node]] = defaultdict(list)
        for node in mine:
            table_new[node.digest].append(node)
        for node in theirs:
            table_old[node.digest].append(node)
        pairs = [
            (news[0], table_old[digest][0])
            for digest, news in table_new.items()
            if len(news) == 1 and len(table_old.get(digest, ())) == 1
        ]
        pairs.sort(key=lambda p: (-p[0].size, p[0].number))
        for a, b in pairs:
            if not self._free(a, b) or len(a.bag) < 2:
                continue
            if a.size == 1 and sum(a.bag.values()) < least:
                continue
            self._pair_trees(a, b)

    def _align_all(self) -> None:
        for node in self.new.nodes:
            other = self.old_of(node)
            if other is not None and node.blocks and other.blocks:
                for mine, theirs in _block_pairs(node, other):
                    self._accept(self._aligner.align(mine.items, theirs.items))

    def _containers(self, least: float = 0.35, *, same_depth: bool = False) -> None:
        """Pair compound statements by what they hold, innermost first."""
        for node in reversed(self.new.nodes):
            if not node.blocks or node.is_scope or node.number in self.partner:
                continue
            votes: Counter[int] = Counter()
            for inner in self.likeness.holds(node):
                other = self.partner.get(inner.number)
                if other is not None:
                    for owner in self._owners(other):
                        if owner.kind == node.kind and owner.number not in self.back:
                            votes[owner.number] += 1
            ranked: list[tuple[float, int]] = []
            for number, shared in votes.items():
                other = self.old.nodes[number]
                if same_depth and _depth(node) != _depth(other):
                    continue
                sizes = self._size(node, self.new, self._calls_new) + self._size(
                    other, self.old, self._calls_old
                )
                dice = 2 * shared / max(1, sizes - 2)
                if dice >= least or (dice_of(node.bag, other.bag) > 0.8 and shared):
                    ranked.append((dice, number))
            if ranked:
                best = max(ranked, key=lambda r: (r[0], r[1]))
                self._pair(node, self.old.nodes[best[1]])

    def _owners(self, node: Node) -> Iterable[Node]:
        """Old statements around one, also around the only call of its function."""
        for _ in range(4):
            scope: Node | None = None
            for owner in node.ancestors():
                if owner.is_scope:
                    scope = owner
                    break
                yield owner
            site = None if scope is None else self.old_sites.get(scope.number)
            if site is None:
                return
            yield site
            node = site

    @staticmethod
    def _size(node: Node, tree: Tree, calls: dict[int, Node]) -> int:
        own = range(node.number, node.last + 1)
        return node.size + sum(
            calls[n].size - 1 for n in own if n in calls and not calls[n].contains(tree.nodes[n])
        )

    def _same_targets(self) -> None:
        """The only assignment of a name in a function and the only one in its counterpart, also out of order."""

        def single(tree: Tree, scope: Node) -> dict[tuple[str, ...], Node]:
            groups: dict[tuple[str, ...], list[Node]] = defaultdict(list)
            for node in within(tree, scope):
                if node.kind == "assign" and targets_of(node):
                    groups[targets_of(node)].append(node)
            return {targets: nodes[0] for targets, nodes in groups.items() if len(nodes) == 1}

        for scope in [n for n in self.new.nodes if n.is_scope]:
            other = self.old_of(scope)
            if other is None:
                continue
            theirs = single(self.old, other)
            for targets, node in single(self.new, scope).items():
                match = theirs.get(targets)
                if match is None or not self._free(node, match) or self.likeness(node, match) < 0.6:
                    continue
                if node.loop is None or match.loop is None:
                    apart = node.loop is not match.loop
                else:
                    apart = self.old_of(node.loop) is not match.loop
                if not apart:
                    self._pair(node, match)

    def _wrapped(self) -> None:
        """Align a block with what the other side put into a wrapper or a function of its own."""
        for node in self.new.nodes:
            other = self.old_of(node)
            if other is None or not node.blocks or not other.blocks:
                continue
            for mine, theirs in _block_pairs(node, other):
                self._through(mine.items, theirs.items, old_side=True)
                self._through(theirs.items, mine.items, old_side=False)

    def _through(self, flat: Sequence[Node], wrapping: Sequence[Node], *, old_side: bool) -> None:
        """Align the unmatched items of `flat` with the insides of unmatched items of `wrapping`."""
        known_flat, known_wrap = (self.partner, self.back) if old_side else (self.back, self.partner)
        for wrapper in wrapping:
            if wrapper.number in known_wrap and not self._calls(wrapper, old_side=old_side):
                continue
            best: tuple[float, list[tuple[Node, Node, float]]] = (0.0, [])
            for block in self._insides(wrapper, old_side=old_side, depth=4):
                inside = {n.number for n in block.items}
                candidates = [
                    n for n in flat if n.number not in known_flat or known_flat[n.number].number in inside
                ]
                pairs = (
                    self._aligner.align(candidates, block.items)
                    if old_side
                    else self._aligner.align(block.items, candidates)
                )
                weight = sum(w * min(a.size, b.size, 4) for a, b, w in pairs)
                if weight > best[0]:
                    best = (weight, pairs)
            if best[0] >= 1.2 and any(w >= 0.6 for _, _, w in best[1]):
                self._accept(best[1])

    def _calls(self, node: Node, *, old_side: bool) -> Node | None:
        """The unmatched function that this statement is the only caller of."""
        function = (self._calls_old if old_side else self._calls_new).get(node.number)
        known = self.back if old_side else self.partner
        return None if function is None or function.number in known else function

    def _insides(self, node: Node, *, old_side: bool, depth: int) -> Iterable[Block]:
        if depth == 0:
            return
        blocks = [] if node.is_scope else list(node.blocks)
        function = self._calls(node, old_side=old_side)
        if function is not None:
            blocks.extend(function.blocks)
        for block in blocks:
            yield block
            for item in block.items:
                yield from self._insides(item, old_side=old_side, depth=depth - 1)

    def _loops_left_over(self) -> bool:
        """Pair loops in the same surroundings that nothing is left to be mistaken for; whether there were any."""
        found = False
        while True:
            news = self._by_surroundings(self.new, self.partner, self.new_sites)
            olds = self._by_surroundings(self.old, self.back, self.old_sites)
            pairs = [
                pair
                for key, mine in news.items()
                if (pair := self._loop_pair(mine, olds.get(key, []))) is not None
            ]
            if not pairs:
                return found
            found = True
            for a, b in pairs:
                self._pair(a, b)
                self._sole_branches(a, b)

    def _sole_branches(self, a: Node, b: Node) -> None:
        """Pair the only `if`s that two loops have left, so that what stands behind one stays behind the other."""
        for mine, theirs in _block_pairs(a, b):
            news = [n for n in mine.items if n.kind == "if" and n.number not in self.partner]
            olds = [n for n in theirs.items if n.kind == "if" and n.number not in self.back]
            if len(news) == len(olds) == 1 and dice_of(news[0].bag, olds[0].bag) >= _SOLE_LOOP:
                self._pair(news[0], olds[0])

    def _by_surroundings(
        self, tree: Tree, known: Mapping[int, Node], sites: Mapping[int, Node]
    ) -> dict[int, list[Node]]:
        """Loops without a counterpart by the loop or function around them, as the old version's number of it.

        A function without a counterpart is looked through where it is called from one place.
        """
        new = tree is self.new
        found: dict[int, list[Node]] = defaultdict(list)
        for loop in tree.nodes:
            if loop.kind != "loop" or loop.number in known:
                continue
            outer = loop.loop or loop.scope
            while outer is not None and outer.is_scope and outer.number and outer.number not in known:
                site = sites.get(outer.number)
                outer = None if site is None else site.loop or site.scope
            if outer is not None and outer.number in known:
                found[known[outer.number].number if new else outer.number].append(loop)
        return found

    def _loop_pair(self, mine: Sequence[Node], theirs: Sequence[Node]) -> tuple[Node, Node] | None:
        """The loops of one header, or the only ones, if they have something in common."""
        for a in mine:
            same = [b for b in theirs if b.text == a.text]
            if len(same) == 1 and sum(x.text == a.text for x in mine) == 1:
                return a, same[0]
        if len(mine) != 1 or len(theirs) != 1:
            return None
        a, b = mine[0], theirs[0]
        alike = max(dice_of(a.bag, b.bag), self.likeness.shared_content(a, b))
        return (a, b) if alike >= _SOLE_LOOP else None

    def _between_callers(self) -> None:
        """Equal statements that moved between a function and one that calls it."""
        callers: dict[int, set[int]] = defaultdict(set)
        names = {n.name: n for n in self.old.nodes if n.kind == "def"}
        for node in self.old.nodes:
            for name, _, _ in node.facts.mentions:
                called = names.get(name)
                if called is not None and node.scope is not None and node.scope is not called:
                    callers[called.number].add(node.scope.number)
                    callers[node.scope.number].add(called.number)
        mine = _by_digest(n for n in self.new.nodes if n.number not in self.partner)
        theirs = _by_digest(n for n in self.old.nodes if n.number not in self.back)
        for digest, news in mine.items():
            olds = theirs.get(digest, [])
            if len(news) != 1 or len(olds) != 1 or sum(news[0].bag.values()) < _MOVED:
                continue
            a, b = news[0], olds[0]
            scope = self.partner.get(a.scope.number) if a.scope is not None else None
            if scope is not None and b.scope is not None and b.scope.number in callers[scope.number]:
                self._pair_trees(a, b)

    def _leftovers(self) -> None:
        """Equal statements in matched functions, in order, where nothing else tells them apart."""
        for scope in [n for n in self.new.nodes if n.is_scope]:
            other = self.old_of(scope)
            if other is None:
                continue
            table: dict[int, list[Node]] = defaultdict(list)
            for node in within(self.old, other):
                if node.number not in self.back:
                    table[node.digest].append(node)
            groups: dict[int, list[Node]] = defaultdict(list)
            for node in within(self.new, scope):
                if node.number not in self.partner and node.digest in table:
                    groups[node.digest].append(node)
            for digest, news in groups.items():
                if len(news) == len(table[digest]) and len(news[0].bag) > 1:
                    for a, b in zip(news, table[digest], strict=True):
                        if self._free(a, b):
                            self._pair_trees(a, b)

    def _accept(self, pairs: Iterable[tuple[Node, Node, float]]) -> None:
        for a, b, weight in pairs:
            if self._free(a, b):
                if weight == EQUAL and a.digest == b.digest:
                    self._pair_trees(a, b)
                else:
                    self._pair(a, b)


def _by_digest(nodes: Iterable[Node]) -> dict[int, list[Node]]:
    found: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        found[node.digest].append(node)
    return found


def _block_pairs(a: Node, b: Node) -> list[tuple[Block, Block]]:
    """Blocks of two matched statements that play the same part."""
    pairs: list[tuple[Block, Block]] = []
    left = list(b.blocks)
    for mine in a.blocks:
        same = [t for t in left if t.role == mine.role]
        same.sort(key=lambda t: (t.label != mine.label, t.number))
        if same:
            pairs.append((mine, same[0]))
            left.remove(same[0])
    return pairs


def _depth(node: Node) -> int:
    """Number of loops around a statement within its function."""
    depth = 0
    loop = node.loop
    while loop is not None:
        depth += 1
        loop = loop.loop
    return depth


def _named_loops(tree: Tree, spelled: Aliases) -> dict[str, list[Node]]:
    """The named loops of a text, by their names."""
    found: dict[str, list[Node]] = defaultdict(list)
    for node in tree.nodes:
        if isinstance(node.syntax, (ast.For, ast.AsyncFor)):
            name = loop_name(node.syntax, spelled)
            if name is not None:
                found[name].append(node)
    return found
