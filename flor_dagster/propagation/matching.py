"""Which statement of the old version is the counterpart of which statement of the new one.

The order matters, safest first: functions by their qualified names, identical statements that are unique, then blocks of
matched statements aligned item by item, containers by what they hold, and code that one side wraps in something the
other side lacks (a `with`, a `try`, an extracted function). The steps feed each other and are repeated.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from flor_dagster.propagation.callsites import unique_call_sites
from flor_dagster.propagation.tree import Block, Node, Tree

_FIXED = 3.0  # weight of a pair that is known
_EQUAL = 1.2  # weight of equal text
_ALIKE = 0.5  # least similarity of a pair
_ROUNDS = 3
_EMPTY = ("Pass", "Break", "Continue", "try")  # statements that say nothing about what holds them


class Matching:
    """Counterparts of the statements of two trees; `partner` and `back` are each other's inverse."""

    def __init__(self, new: Tree, old: Tree) -> None:
        self.new = new
        self.old = old
        self.partner: dict[int, Node] = {}
        self.back: dict[int, Node] = {}
        self.new_sites = unique_call_sites(new)
        self.old_sites = unique_call_sites(old)
        self._calls_new = {s.number: new.nodes[f] for f, s in self.new_sites.items()}
        self._calls_old = {s.number: old.nodes[f] for f, s in self.old_sites.items()}
        self._likeness: dict[tuple[int, int], float] = {}
        self._contents: dict[tuple[bool, int], Counter[int]] = {}
        self._targets_of: dict[tuple[bool, int], set[str]] = {}
        self._match()

    def old_of(self, node: Node) -> Node | None:
        """Counterpart in the old tree."""
        return self.partner.get(node.number)

    def new_of(self, node: Node) -> Node | None:
        """Counterpart in the new tree."""
        return self.back.get(node.number)

    def likeness(self, a: Node, b: Node) -> float:
        """How alike two statements are, 0 to 1; 1 is equal text."""
        key = (a.number, b.number)
        known = self._likeness.get(key)
        if known is None:
            known = self._likeness[key] = self._compare(a, b)
        return known

    # ------------------------------------------------------------------ the steps

    def _match(self) -> None:
        self._pair(self.new.root, self.old.root)
        self._functions_by_name()
        self._functions_by_content()
        self._unique_in_functions()
        self._containers(least=0.5, same_depth=True)
        for _ in range(_ROUNDS):
            before = len(self.partner)
            self._align_all()
            self._containers()
            self._same_targets()
            self._wrapped()
            self._unique_anywhere()
            if len(self.partner) == before:
                break
        self._leftovers()

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
            for b in olds:
                if a.kind == b.kind:
                    share = self._shared_content(a, b)
                    if a.name == b.name:
                        share = 0.4 + 0.6 * share
                    ranked.append((share, a.number, b.number))
        for share, x, y in sorted(ranked, key=lambda r: (-r[0], r[1], r[2])):
            a, b = self.new.nodes[x], self.old.nodes[y]
            if share >= 0.5 and self._free(a, b):
                self._pair(a, b)

    def _unique_in_functions(self) -> None:
        for scope in [n for n in self.new.nodes if n.is_scope]:
            other = self.old_of(scope)
            if other is None:
                continue
            mine = [n for n in self._within(self.new, scope) if n.number not in self.partner]
            theirs = [n for n in self._within(self.old, other) if n.number not in self.back]
            self._pair_unique(mine, theirs, least=1)

    def _unique_anywhere(self) -> None:
        mine = [n for n in self.new.nodes if n.number not in self.partner]
        theirs = [n for n in self.old.nodes if n.number not in self.back]
        self._pair_unique(mine, theirs, least=8)

    @staticmethod
    def _within(tree: Tree, scope: Node) -> list[Node]:
        return [n for n in tree.nodes[scope.number + 1 : scope.last + 1] if n.scope is scope]

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
                    self._accept(self._align(mine.items, theirs.items))

    def _containers(self, least: float = 0.35, *, same_depth: bool = False) -> None:
        """Pair compound statements by what they hold, innermost first."""
        for node in reversed(self.new.nodes):
            if not node.blocks or node.is_scope or node.number in self.partner:
                continue
            votes: Counter[int] = Counter()
            for inner in self._holds(node):
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
                if dice >= least or (_dice(node.bag, other.bag) > 0.8 and shared):
                    ranked.append((dice, number))
            if ranked:
                best = max(ranked, key=lambda r: (r[0], r[1]))
                self._pair(node, self.old.nodes[best[1]])

    def _holds(self, node: Node, *, new: bool = True) -> Iterable[Node]:
        """What a statement holds, with what is in the functions that only it calls."""
        calls = self._calls_new if new else self._calls_old
        seen: set[int] = set()
        todo = [node]
        while todo:
            top = todo.pop()
            for inner in top.walk():
                yield inner
                function = calls.get(inner.number)
                if function is not None and function.number not in seen and not function.contains(node):
                    seen.add(function.number)
                    todo.extend(item for block in function.blocks for item in block.items)

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
            for node in self._within(tree, scope):
                if node.kind == "assign" and _targets(node):
                    groups[_targets(node)].append(node)
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
                    self._align(candidates, block.items) if old_side else self._align(block.items, candidates)
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

    def _leftovers(self) -> None:
        """Equal statements in matched functions, in order, where nothing else tells them apart."""
        for scope in [n for n in self.new.nodes if n.is_scope]:
            other = self.old_of(scope)
            if other is None:
                continue
            table: dict[int, list[Node]] = defaultdict(list)
            for node in self._within(self.old, other):
                if node.number not in self.back:
                    table[node.digest].append(node)
            groups: dict[int, list[Node]] = defaultdict(list)
            for node in self._within(self.new, scope):
                if node.number not in self.partner and node.digest in table:
                    groups[node.digest].append(node)
            for digest, news in groups.items():
                if len(news) == len(table[digest]) and len(news[0].bag) > 1:
                    for a, b in zip(news, table[digest], strict=True):
                        if self._free(a, b):
                            self._pair_trees(a, b)

    # ------------------------------------------------------------------ alignment

    def _accept(self, pairs: Iterable[tuple[Node, Node, float]]) -> None:
        for a, b, weight in pairs:
            if self._free(a, b):
                if weight == _EQUAL and a.digest == b.digest:
                    self._pair_trees(a, b)
                else:
                    self._pair(a, b)

    def _align(self, mine: Sequence[Node], theirs: Sequence[Node]) -> list[tuple[Node, Node, float]]:
        """Order-keeping pairs of two runs of statements with the largest weight in all."""
        fixed = self._fixed_points(mine, theirs)
        pairs: list[tuple[Node, Node, float]] = []
        i = j = 0
        for x, y in [*fixed, (len(mine), len(theirs))]:
            pairs.extend(self._align_gap(mine[i:x], theirs[j:y]))
            if x < len(mine):
                pairs.append((mine[x], theirs[y], _FIXED))
            i, j = x + 1, y + 1
        return pairs

    def _fixed_points(self, mine: Sequence[Node], theirs: Sequence[Node]) -> list[tuple[int, int]]:
        """The longest ordered run of pairs that are known already."""
        at = {n.number: k for k, n in enumerate(theirs)}
        known: list[tuple[int, int]] = []
        for k, node in enumerate(mine):
            other = self.partner.get(node.number)
            if other is not None and other.number in at:
                known.append((k, at[other.number]))
        tails: list[int] = []
        ends: list[int] = []
        previous: list[int] = []
        for k, (_, y) in enumerate(known):
            spot = bisect_left(tails, y)
            previous.append(ends[spot - 1] if spot else -1)
            if spot == len(tails):
                tails.append(y)
                ends.append(k)
            else:
                tails[spot], ends[spot] = y, k
        run: list[tuple[int, int]] = []
        k = ends[-1] if ends else -1
        while k >= 0:
            run.append(known[k])
            k = previous[k]
        return run[::-1]

    def _align_gap(self, mine: Sequence[Node], theirs: Sequence[Node]) -> list[tuple[Node, Node, float]]:
        a = [n for n in mine if n.number not in self.partner]
        b = [n for n in theirs if n.number not in self.back]
        if not a or not b:
            return []
        table = [[0.0] * (len(b) + 1) for _ in range(len(a) + 1)]
        weights = [[self._weight(x, y) for y in b] for x in a]
        for i in range(len(a) - 1, -1, -1):
            row, below, weight = table[i], table[i + 1], weights[i]
            for j in range(len(b) - 1, -1, -1):
                best = max(below[j], row[j + 1])
                taken = below[j + 1] + weight[j]
                row[j] = taken if weight[j] and taken > best else best
        pairs: list[tuple[Node, Node, float]] = []
        i = j = 0
        while i < len(a) and j < len(b):
            taken = table[i + 1][j + 1] + weights[i][j]
            if weights[i][j] and abs(table[i][j] - taken) < 1e-9:
                pairs.append((a[i], b[j], weights[i][j]))
                i, j = i + 1, j + 1
            elif table[i + 1][j] >= table[i][j + 1]:
                i += 1
            else:
                j += 1
        return pairs

    def _weight(self, a: Node, b: Node) -> float:
        if a.digest == b.digest:
            return _EQUAL if len(a.bag) > 1 else 0.6
        alike = self.likeness(a, b)
        return alike if alike >= _ALIKE else 0.0

    # ------------------------------------------------------------------ similarity

    def _compare(self, a: Node, b: Node) -> float:
        if a.digest == b.digest:
            return 1.0
        if a.kind != b.kind:
            if {a.kind, b.kind} == {"assign", "expr"}:
                return 0.8 * _dice(a.bag, b.bag)
            return 0.0
        if a.is_scope:
            return 0.0  # functions and classes are paired by name or content
        header = 1.0 if a.text == b.text else max(_dice(a.bag, b.bag), 0.8 * _dice(a.shape, b.shape))
        if a.kind == "assign" and self._other_targets(a, b):
            return 0.0
        if a.blocks:
            content = self._shared_content(a, b)
            if a.kind in ("try", "with"):
                return max(content, 0.4 * header + 0.6 * content)
            return max(0.4 * header + 0.6 * content, 0.9 * header if header > 0.8 else 0.0)
        if a.kind == "assign" and _targets(a) == _targets(b):
            return 0.35 + 0.65 * header
        return header

    def _other_targets(self, a: Node, b: Node) -> bool:
        """Whether one assigns a name that the other side's function has an assignment of its own for."""
        mine, theirs = set(_targets(a)), set(_targets(b))
        if mine == theirs or a.scope is None or b.scope is None:
            return False
        return bool((mine - theirs) & self._assigned(b.scope, new=False)) or bool(
            (theirs - mine) & self._assigned(a.scope, new=True)
        )

    def _assigned(self, scope: Node, *, new: bool) -> set[str]:
        known = self._targets_of.get((new, scope.number))
        if known is None:
            within = self._within(self.new if new else self.old, scope)
            known = {t for n in within if n.kind == "assign" for t in _targets(n)}
            self._targets_of[new, scope.number] = known
        return known

    def _shared_content(self, a: Node, b: Node) -> float:
        """Dice of the simple statements inside, half credit for those that differ in names only."""
        return max(
            _counter_dice(self._content(a, new=True, shape=False), self._content(b, new=False, shape=False)),
            0.85
            * _counter_dice(self._content(a, new=True, shape=True), self._content(b, new=False, shape=True)),
        )

    def _content(self, node: Node, *, new: bool, shape: bool) -> Counter[int]:
        key = (new, node.number * 2 + shape)
        known = self._contents.get(key)
        if known is None:
            inner = [n for n in self._holds(node, new=new) if n is not node and n.kind not in _EMPTY]
            known = Counter((n.shape_text if shape else n.text) for n in inner)
            self._contents[key] = known
        return known


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


def _targets(node: Node) -> tuple[str, ...]:
    return node.facts.targets


def _dice(a: dict[str, int], b: dict[str, int]) -> float:
    if len(a) > len(b):
        a, b = b, a
    shared = 0
    for token, count in a.items():
        other = b.get(token)
        if other:
            shared += min(other, count)
    total = sum(a.values()) + sum(b.values())
    return 2 * shared / total if total else 1.0


def _counter_dice(a: Counter[int], b: Counter[int]) -> float:
    total = a.total() + b.total()
    if not total:
        return 0.0
    if len(a) > len(b):
        a, b = b, a
    return 2 * sum(min(count, b[thing]) for thing, count in a.items()) / total
