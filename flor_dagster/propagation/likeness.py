"""How alike two statements are: by their own line, and by what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from flor_dagster.propagation.tree import Node, Tree

_EMPTY = ("Pass", "Break", "Continue", "try")  # statements that say nothing about what holds them


class Likeness:
    """Compares statements of two trees; what it has compared is kept.

    Args:
        new: The new version.
        old: The old version.
        calls_new: Functions of the new version by the number of the only statement that calls them.
        calls_old: The same of the old version.
    """

    def __init__(self, new: Tree, old: Tree, calls_new: dict[int, Node], calls_old: dict[int, Node]) -> None:
        self._new, self._old = new, old
        self._calls_new, self._calls_old = calls_new, calls_old
        self._known: dict[tuple[int, int], float] = {}
        self._contents: dict[tuple[bool, int], Counter[int]] = {}
        self._targets_of: dict[tuple[bool, int], set[str]] = {}

    def __call__(self, a: Node, b: Node) -> float:
        """How alike two statements are, 0 to 1; 1 is equal text."""
        key = (a.number, b.number)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._compare(a, b)
        return known

    def holds(self, node: Node, *, new: bool = True) -> Iterable[Node]:
        """What a statement holds, itself included, with what is in the functions that only it calls."""
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

    def _compare(self, a: Node, b: Node) -> float:
        if a.digest == b.digest:
            return 1.0
        if a.kind != b.kind:
            if {a.kind, b.kind} == {"assign", "expr"}:
                return 0.8 * dice_of(a.bag, b.bag)
            return 0.0
        if a.is_scope:
            return 0.0  # functions and classes are paired by name or content
        header = 1.0 if a.text == b.text else max(dice_of(a.bag, b.bag), 0.8 * dice_of(a.shape, b.shape))
        if a.kind == "assign" and self._other_targets(a, b):
            return 0.0
        if a.blocks:
            content = self.shared_content(a, b)
            if a.kind in ("try", "with"):
                return max(content, 0.4 * header + 0.6 * content)
            return max(0.4 * header + 0.6 * content, 0.9 * header if header > 0.8 else 0.0)
        if a.kind == "assign" and targets_of(a) == targets_of(b):
            return 0.35 + 0.65 * header
        return header

    def _other_targets(self, a: Node, b: Node) -> bool:
        """Whether one assigns a name that the other side's function has an assignment of its own for."""
        mine, theirs = set(targets_of(a)), set(targets_of(b))
        if mine == theirs or a.scope is None or b.scope is None:
            return False
        return bool((mine - theirs) & self._assigned(b.scope, new=False)) or bool(
            (theirs - mine) & self._assigned(a.scope, new=True)
        )

    def _assigned(self, scope: Node, *, new: bool) -> set[str]:
        known = self._targets_of.get((new, scope.number))
        if known is None:
            inside = within(self._new if new else self._old, scope)
            known = {t for n in inside if n.kind == "assign" for t in targets_of(n)}
            self._targets_of[new, scope.number] = known
        return known

    def shared_content(self, a: Node, b: Node) -> float:
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
            inner = [n for n in self.holds(node, new=new) if n is not node and n.kind not in _EMPTY]
            known = Counter((n.shape_text if shape else n.text) for n in inner)
            self._contents[key] = known
        return known


def within(tree: Tree, scope: Node) -> list[Node]:
    """Statements of a function, class or module, without those of scopes inside."""
    return [n for n in tree.nodes[scope.number + 1 : scope.last + 1] if n.scope is scope]


def targets_of(node: Node) -> tuple[str, ...]:
    """Everything that a statement gives a value."""
    return node.facts.targets


def dice_of(a: dict[str, int], b: dict[str, int]) -> float:
    """Dice of two bags of tokens: shared ones over all, 0 to 1."""
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
