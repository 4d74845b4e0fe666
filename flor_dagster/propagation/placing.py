"""Find the place in the old version that corresponds to a place in the new one.

Every gap between two statements is a candidate. Rules that must hold come first: control can reach it, it is in the
counterpart of the loop, every name can be read there. What is left is ordered by evidence: which function and block it
is in, on which side of the neighbours' counterparts it lies, and which definitions reach it.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from itertools import pairwise

from flor_dagster.propagation.agreement import Agreement, Crossing
from flor_dagster.propagation.branches import Branches
from flor_dagster.propagation.definitions import Definitions
from flor_dagster.propagation.gaps import Gap
from flor_dagster.propagation.matching import Matching
from flor_dagster.propagation.nesting import Nest, Nesting, same_loops
from flor_dagster.propagation.paths import Paths, Step, compare, loop_of, scope_of
from flor_dagster.propagation.reads import Reads
from flor_dagster.propagation.resolved import Resolved
from flor_dagster.propagation.resolving import Names
from flor_dagster.propagation.tree import Block, Node, Tree, is_docstring

_NEAR = 8  # neighbours looked at on each side
_DECAY = 0.8
_STRAY = 1.0  # a place in the right named loops may have so much less for it


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate with its evidence and what the names read are called there.

    `crossing` is a change of something read that stands on the other side of it than in the new version.
    """

    gap: Gap
    score: float
    evidence: float
    names: tuple[Resolved, ...]
    in_named_loops: bool = True
    crossing: Crossing | None = None

    @property
    def readable(self) -> bool:
        """Whether every name can be read."""
        return all(r.refused is None for r in self.names)

    @property
    def fits(self) -> bool:
        """Whether every name can be read, and has the value that it should."""
        return self.crossing is None and self.readable


@dataclass(frozen=True, slots=True)
class Search:
    """What a search for a place found: all candidates in the right loop, best first, or why there are none.

    `strayed` are the named loops that the statement belongs in and those of the best place, where they differ. `copy` is
    a statement of the old version behind which there is the same code as around the best place.
    """

    candidates: tuple[Scored, ...]
    lost_loop: Node | None = None
    lost_branch: Node | None = None
    torn: bool = False
    strayed: tuple[Nest, Nest] | None = None
    only_branches: bool = False
    copy: Node | None = None


class Placer:
    """Finds places in one old version for statements of one new version."""

    def __init__(
        self,
        matching: Matching,
        new: Definitions,
        old: Definitions,
        names: Names,
        nesting: tuple[Nesting, Nesting],
    ) -> None:
        self._matching = matching
        self._new_nesting, self._old_nesting = nesting
        self._new = new
        self._old = old
        self._names = names
        self._new_paths = Paths(matching.new, matching.new_sites)
        self._old_paths = Paths(matching.old, matching.old_sites)
        self._agreement = Agreement(matching, self._new_paths, self._old_paths)

    def search(self, gap: Gap, reads: Reads, beside: Node | None = None) -> Search:
        """Score every place of the old version for a statement that reads `reads` and stands at `gap`.

        Args:
            gap: Where the statement stands in the new version.
            reads: What it reads.
            beside: A statement of the old version that the new one must follow, if there is one.
        """
        neighbours = self._neighbours(gap, reads)
        scope = scope_of(gap.block)
        counterpart = self._moved_to(gap) or self._scope_counterpart(scope, neighbours)
        places = [g for g in self._gaps(in_class=gap.block.owner.kind == "class") if self._same_loop(gap, g)]
        if not places:
            return Search((), lost_loop=self._new_paths.innermost_loop(gap.block, through_calls=True))
        branches = Branches(self._matching, gap)
        places = [p for p in places if branches.may_hold(p.block)]
        if not places:
            return Search((), only_branches=True)
        home = self._home(gap)
        scored: list[Scored] = []
        cache: dict[int, float] = {}
        for place in places:
            path = (*self._old_paths.of_block(place.block), (place.block.number, place.index))
            evidence, certain = self._side_evidence(path, neighbours)
            score = evidence + self._structure(gap, place, counterpart, home, cache)
            score += self._adjacency(gap, place)
            if not gap.block.owner.is_scope and self._same_block(gap.block, place.block):
                certain += 1.0
            if beside is not None:
                side, level = compare(path, self._old_paths.of_node(beside))
                score += 3.0 if side == "before" and not level else -3.0
                certain += 1.0
            in_loops = self._same_named_loops(gap, place)
            scored.append(Scored(place, score, certain, (), in_loops))
        scored.sort(key=lambda s: (-s.score, s.gap.block.number, s.gap.index))
        resolved = [self._with_names(gap, s, reads) for s in scored[:60]]
        resolved.sort(key=lambda s: (not s.fits, -s.score, s.gap.block.number, s.gap.index))
        resolved = _without_a_leap(resolved)
        lost = self._lost_branch(gap) if resolved else None
        strayed = self._strayed(gap, resolved)
        if strayed is None:
            resolved = [r for r in resolved if r.in_named_loops]
        torn = bool(resolved) and self._torn(gap, resolved[0].gap, reads)
        copy = self._copy(gap, resolved[0].gap) if resolved else None
        return Search(tuple(resolved), lost_branch=lost, torn=torn, strayed=strayed, copy=copy)

    def _strayed(self, gap: Gap, found: list[Scored]) -> tuple[Nest, Nest] | None:
        """Whether what speaks for a place speaks for one in other named loops."""
        if not found or found[0].in_named_loops:
            return None
        best = found[0]
        right = next((r for r in found if r.in_named_loops), None)
        if right is not None and right.readable == best.readable and best.score - right.score < _STRAY:
            return None
        return self._new_nesting.of(gap.block), self._old_nesting.of(best.gap.block)

    def _torn(self, gap: Gap, place: Gap, reads: Reads) -> bool:
        """Whether the statements just before and after went to different functions, so that either could be meant."""
        if gap.before is None or gap.after is None or set(self._new.bindings(gap.before)) & set(reads.names):
            return False
        ends = [self._matching.old_of(n) for n in (gap.before, gap.after)]
        path = (*self._old_paths.of_block(place.block), (place.block.number, place.index))
        apart = [e is not None and compare(path, self._old_paths.of_node(e))[0] == "apart" for e in ends]
        return None not in ends and apart.count(True) == 1

    def _copy(self, gap: Gap, place: Gap) -> Node | None:
        """Where else the old version has the statements just before and after, one behind the other."""
        if gap.before is None or gap.after is None or place.before is None or place.after is None:
            return None
        pair = (gap.before.digest, gap.after.digest)
        if (place.before.digest, place.after.digest) != pair or min(
            len(gap.before.bag), len(gap.after.bag)
        ) < 3:
            return None
        mine, theirs = _followed_by(self._matching.new, pair), _followed_by(self._matching.old, pair)
        others = [n for n in theirs if n is not place.before]
        return others[0] if len(theirs) > len(mine) and others else None

    def _lost_branch(self, gap: Gap) -> Node | None:
        """The branch around a statement, where neither it nor anything in it exists in the old version."""
        owner, role = gap.block.owner, gap.block.role
        conditional = owner.kind in ("if", "match") or role in ("handler", "orelse")
        if not conditional or self._matching.old_of(owner) is not None:
            return None
        inside = (n for item in gap.block.items for n in item.walk())
        return None if any(self._matching.old_of(n) for n in inside) else owner

    def same_place(self, gap: Gap, place: Gap) -> bool:
        """Whether two places are repeated by the same loop, in matched functions."""
        return self._same_loop(gap, place) and self._same_named_loops(gap, place)

    # ------------------------------------------------------------------ rules

    def _gaps(self, *, in_class: bool) -> list[Gap]:
        """Every place that can be reached; a class's own body is one only for what stands in such a body."""
        found: list[Gap] = []
        for block in self._matching.old.blocks:
            if block.is_elif or (block.owner.kind == "class" and not in_class):
                continue
            first = _first_place(block)
            found.extend(
                Gap(block, i) for i in range(first, len(block.items) + 1) if self._old.reachable(block, i)
            )
        return found

    def _same_loop(self, gap: Gap, place: Gap) -> bool:
        """Same number of executions: the innermost loops are counterparts, or there is none on either side."""
        scope, other = scope_of(gap.block), scope_of(place.block)
        within = self._matching.old_of(scope) is other
        mine = self._new_paths.innermost_loop(gap.block, through_calls=not within)
        theirs = self._old_paths.innermost_loop(place.block, through_calls=not within)
        if mine is None or theirs is None:
            return mine is theirs
        return self._matching.old_of(mine) is theirs or self._folded(mine, theirs)

    def _folded(self, mine: Node, theirs: Node) -> bool:
        """Whether a loop of the new version does in a loop of its own what the old version does in the one around it."""
        if self._matching.old_of(mine) is not None or mine.loop is None:
            return False
        if self._new_nesting.is_named(mine) or self._old_nesting.is_named(theirs):
            return False  # once per step is not once per epoch
        if self._matching.old_of(mine.loop) is not theirs:
            return False
        inside = [n for n in mine.walk() if n.loop is mine]
        others = [o for n in inside if (o := self._matching.old_of(n)) is not None]
        return len(others) >= 3 and len(others) * 2 > len(inside) and all(o.loop is theirs for o in others)

    def _same_named_loops(self, gap: Gap, place: Gap) -> bool:
        return same_loops(self._new_nesting, gap.block, self._old_nesting, place.block)

    # ------------------------------------------------------------------ evidence

    def _neighbours(self, gap: Gap, reads: Reads) -> list[tuple[tuple[Step, ...], str, float]]:
        """Counterparts of the statements around, with the side they must be on and their weight."""
        found: list[tuple[tuple[Step, ...], str, float]] = []

        def add(node: Node, side: str, weight: float) -> None:
            other = self._matching.old_of(node)
            if other is not None:
                found.append((self._old_paths.of_node(other), side, weight))

        items = gap.block.items
        before, after = items[: gap.index][::-1], items[gap.index :]
        for distance, node in enumerate(before[:_NEAR]):
            weight = _DECAY**distance
            if not distance and set(self._new.bindings(node)) & set(reads.names):
                weight *= 2
            add(node, "before", weight)
        for distance, node in enumerate(after[:_NEAR]):
            add(node, "after", _DECAY**distance)
        for side, run in self._wider(gap):
            for node in run:
                add(node, side, 0.12)
        return found

    def _wider(self, gap: Gap) -> list[tuple[str, list[Node]]]:
        """Statements further away in the same function, in source order."""
        scope = scope_of(gap.block)
        nodes = self._matching.new.nodes
        at = (
            gap.after.number
            if gap.after
            else (gap.before.last + 1 if gap.before else gap.block.owner.number + 1)
        )
        before = [
            n
            for n in reversed(nodes[scope.number + 1 : at])
            if n.block is not gap.block and n.scope is scope and not n.is_compound
        ]
        after = [
            n
            for n in nodes[at : scope.last + 1]
            if n.block is not gap.block and n.scope is scope and not n.is_compound
        ]
        return [("before", before[:_NEAR]), ("after", after[:_NEAR])]

    @staticmethod
    def _side_evidence(
        path: tuple[Step, ...], neighbours: list[tuple[tuple[Step, ...], str, float]]
    ) -> tuple[float, float]:
        score = certain = 0.0
        for other, wanted, weight in neighbours:
            side, level = compare(path, other)
            if side == wanted:
                gained = weight * (0.5 if level and weight > 0.12 else 1.0)
                score += gained
                certain += gained
            elif side == "apart":
                score -= 0.3 * weight
            else:
                score -= (1.5 if weight > 0.12 else 1.0) * weight
        return score, certain

    def _moved_to(self, gap: Gap) -> Node | None:
        """The old function that everything in the statement's own branch is in, where that is another one."""
        if gap.block.owner.is_scope:
            return None
        others = [o for n in gap.block.items if (o := self._matching.old_of(n)) is not None]
        scopes = {id(o.scope): o.scope for o in others}
        if len(scopes) != 1:
            return None
        (found,) = scopes.values()
        return None if found is self._matching.old_of(scope_of(gap.block)) else found

    def _scope_counterpart(
        self, scope: Node, neighbours: list[tuple[tuple[Step, ...], str, float]]
    ) -> Node | None:
        """The old function that the neighbours are in; it may differ from the one of the same name."""
        blocks = self._matching.old.blocks
        votes: dict[int, float] = {}
        for path, _, weight in neighbours:
            holder = scope_of(blocks[path[-1][0]])
            votes[holder.number] = votes.get(holder.number, 0.0) + weight
        matched = self._matching.old_of(scope)
        if matched is not None:
            votes[matched.number] = votes.get(matched.number, 0.0) + 1.0
        if not votes:
            return None
        return self._matching.old.nodes[max(votes, key=lambda n: (votes[n], n))]

    def _home(self, gap: Gap) -> Block | None:
        """The old block that the statements of the same block went to, where they went together."""
        weights: dict[int, float] = {}
        count = 0
        items = gap.block.items
        for run in (items[: gap.index][::-1], items[gap.index :]):
            for distance, node in enumerate(run[:_NEAR]):
                other = self._matching.old_of(node)
                if other is not None and other.block is not None:
                    weights[other.block.number] = weights.get(other.block.number, 0.0) + _DECAY**distance
                    count += 1
        if count < 2:
            return None
        best = max(weights, key=lambda n: (weights[n], n))
        return self._matching.old.blocks[best] if weights[best] >= 0.75 * sum(weights.values()) else None

    def _structure(
        self, gap: Gap, place: Gap, counterpart: Node | None, home: Block | None, cache: dict[int, float]
    ) -> float:
        key = place.block.number
        if key not in cache:
            score = 3.0 if scope_of(place.block) is counterpart else -4.0
            loop, other = loop_of(gap.block), loop_of(place.block)
            if loop is not None and other is not None:
                score += 2.0
            if home is None:
                score += self._owner(gap.block, place.block)
            else:
                score += 1.5 if place.block is home else min(0.0, self._owner(gap.block, place.block))
            cache[key] = score
        return cache[key]

    def _owner(self, mine: Block, theirs: Block) -> float:
        """Whether two blocks are each other's counterparts, perhaps through a wrapper."""
        if self._same_block(mine, theirs):
            # What one side wraps whole is in the wrapper's body.
            return 0.9 if self._sole_wrapper(theirs) is not None else 1.5
        outer_old, outer_new = self._outward(theirs, old=True), self._outward(mine, old=False)
        if any(self._same_block(mine, b) for b in outer_old):
            outer = theirs.owner.block
            whole = outer is not None and self._sole_wrapper(outer) is theirs.owner
            return 1.5 if whole else 0.9
        return 0.9 if any(self._same_block(b, theirs) for b in outer_new) else -1.0

    def _sole_wrapper(self, block: Block) -> Node | None:
        """The `with` that all of a block is in, if the new version has no such thing."""
        first = block.items[0] if len(block.items) == 1 else None
        return first if first and first.kind == "with" and self._matching.new_of(first) is None else None

    def _same_block(self, mine: Block, theirs: Block) -> bool:
        return (
            mine.role == theirs.role
            and self._matching.old_of(mine.owner) is theirs.owner
            and (
                mine.role not in ("handler", "case")
                or mine.label == theirs.label
                or len(mine.owner.blocks) == 2
            )
        )

    def _outward(self, block: Block, *, old: bool) -> list[Block]:
        """Blocks around, through wrappers that don't decide whether their body runs."""
        sites = self._matching.old_sites if old else self._matching.new_sites
        found: list[Block] = []
        while len(found) < 5:
            owner = block.owner
            site = sites.get(owner.number)
            outer = site.block if site else None
            if outer is None and (owner.kind == "with" or (owner.kind == "try" and block.role == "body")):
                outer = owner.block
            if outer is None and owner.kind == "if" and _is_main_guard(owner):
                outer = owner.block
            if outer is None:
                break
            block = outer
            found.append(block)
        return found

    def _adjacency(self, gap: Gap, place: Gap) -> float:
        score = 0.0
        if gap.before is not None and place.before is not None:
            score += 0.36 * (self._matching.old_of(gap.before) is place.before)
        if gap.after is not None and place.after is not None:
            score += 0.35 * (self._matching.old_of(gap.after) is place.after)
        if gap.before is None and place.before is None:
            score += 0.2
        if gap.after is None and place.after is None:
            score += 0.2
        return score

    def _with_names(self, gap: Gap, scored: Scored, reads: Reads) -> Scored:
        place = scored.gap
        resolved = self._names.resolve(reads, (gap.block, gap.index), (place.block, place.index))
        score = scored.score + sum(r.score for r in resolved)
        found = replace(scored, score=score, names=resolved)
        if not found.readable:
            return found
        renamed = {r.name: r.old_name for r in resolved if r.name != r.old_name}
        data = self._data_of(gap, reads)
        return replace(found, crossing=self._agreement.crossing(gap, place, data, renamed))

    def _data_of(self, gap: Gap, reads: Reads) -> Reads:
        """What is read without modules, functions and classes."""
        nodes = self._matching.new.nodes
        reaches = {n: self._new.reach(gap.block, gap.index, n) for n in reads.names}
        kinds = {
            n: {nodes[d].kind for d in r.definitions if nodes[d].name in ("", n)} for n, r in reaches.items()
        }
        kept = {n for n, r in reaches.items() if r.definitions and not kinds[n] & {"import", "def", "class"}}
        handed = {
            n
            for n, r in reaches.items()
            if any(nodes[d].kind == "def" and nodes[d].name != n for d in r.definitions)
        }
        return Reads(
            tuple(n for n in reads.names if n in kept | handed),
            reads.bare & (kept | handed),
            tuple(c for c in reads.chains if c.partition(".")[0] in kept | handed),
            (),
        )


def _without_a_leap(found: list[Scored]) -> list[Scored]:
    """A place on the right side of what changes the things read is one only next to those that are on the wrong one.

    Where much more speaks for a place on the other side, the code was rebuilt, and neither is sure.
    """
    crossed = [c for c in found if c.readable and c.crossing is not None]
    best = max(crossed, key=lambda c: c.score, default=None)
    if best is None or best.score - found[0].score <= _STRAY:
        return found
    return [best, *(c for c in found if c is not best)]


def _followed_by(tree: Tree, pair: tuple[int, int]) -> list[Node]:
    """Statements of a digest with one of another digest right behind them."""
    return [
        item
        for block in tree.blocks
        for item, following in pairwise(block.items)
        if (item.digest, following.digest) == pair
    ]


def _first_place(block: Block) -> int:
    """Index of the first place: documentation, `__future__` imports and scope declarations stay in front."""
    first = 1 if is_docstring(block) else 0
    for index, item in enumerate(block.items):
        future = isinstance(item.syntax, ast.ImportFrom) and item.syntax.module == "__future__"
        if future or isinstance(item.syntax, (ast.Global, ast.Nonlocal)):
            first = index + 1
    return first


def _is_main_guard(node: Node) -> bool:
    return "n:__name__" in node.tokens
