"""Put statements into an old version through the versions between: what one commit renamed is plain in that commit.

The direct way comes first. Where it refuses, a statement is carried from the newest version as far as it can be placed for
sure, and on from there: the farthest hop is searched, so that a history of a hundred versions needs a dozen of hops.
What was placed in one version is kept and is where the next question about an older version starts.
"""

from __future__ import annotations

import ast
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from flor_dagster.errors import SourceSyntaxError
from flor_dagster.propagation.callers import same_named_loops
from flor_dagster.propagation.facts import facts_of
from flor_dagster.propagation.model import Placement, Refusal, RefusalKind
from flor_dagster.propagation.modules import bound_by, defined_functions, parsed
from flor_dagster.propagation.project import (
    FINAL,
    PatchedFile,
    PropagatedTree,
    TreePlacement,
    TreeRefusal,
    moved_placement,
    propagate_tree,
)
from flor_dagster.propagation.statements import find_statements
from flor_dagster.propagation.syntax import LOOPS
from flor_dagster.propagation.trees import PatchedTree, SourceTree, as_tree, python_files, unchanged

_MOST_HOPS = 48  # for one statement and one version
_PASSED_OVER = 3  # so many versions in a row may take nothing before a statement is given up
_KEPT = 256  # hops whose outcome is kept


class History(Protocol):
    """A line of versions, the newest first: each differs from the next by one commit, or by several."""

    def __len__(self) -> int:
        """How many versions there are."""
        ...

    def tree(self, index: int) -> SourceTree:
        """The files of one version."""
        ...

    def renames(self, index: int) -> Mapping[str, str]:
        """Path in version `index` → path in the older version `index + 1`, for files that were renamed between."""
        ...

    def differs(self, index: int, path: str) -> bool:
        """Whether a file of version `index` is not the same in the older version `index + 1`; nothing is read for it."""
        ...

    def label(self, index: int) -> str:
        """What to call a version in a sentence, such as `3f2a91c (2026-02-11, 'Use momentum')`."""
        ...

    def goes_back(self, index: int) -> bool:
        """Whether version `index + 1` came before version `index`; else it was made from it, on a branch of its own."""
        ...


class HistoryOfTrees:
    """A history at hand.

    Args:
        versions: (label, version), the newest first.
        renames: for each version but the last, path in it → path in the older one.
    """

    def __init__(
        self,
        versions: Sequence[tuple[str, SourceTree | Mapping[str, str]]],
        renames: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self._versions = [(label, as_tree(tree)) for label, tree in versions]
        self._renames = list(renames) + [{}] * (len(versions) - len(renames))

    def __len__(self) -> int:
        """How many versions there are."""
        return len(self._versions)

    def tree(self, index: int) -> SourceTree:
        """The files of one version."""
        return self._versions[index][1]

    def renames(self, index: int) -> Mapping[str, str]:
        """Renamed files between a version and the next older one."""
        return self._renames[index]

    def differs(self, index: int, path: str) -> bool:
        """Whether a file differs between a version and the next older one."""
        return path in self._renames[index] or not unchanged(self.tree(index), self.tree(index + 1), path)

    def label(self, index: int) -> str:
        """A version's label."""
        return self._versions[index][0]

    def goes_back(self, index: int) -> bool:
        """Always: the versions are a line."""
        return True


@dataclass(frozen=True, slots=True)
class _Carried:
    """A statement as it stands in one version: in this text of this file, on these lines."""

    index: int
    path: str
    text: str
    lines: tuple[int, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    score: float = 1e9

    def tree(self, history: History) -> SourceTree:
        return PatchedTree(history.tree(self.index), {self.path: self.text})


@dataclass(frozen=True, slots=True)
class _Hop:
    """A statement that was placed in a version: how it stands there, and what was said."""

    carried: _Carried
    result: PropagatedTree


class Chain:
    """Propagates statements of a newest version into versions of its history; what it learns is kept for the next one.

    Args:
        history: the versions between, the newest (which holds the statements) first.
        entry_points: the script that is run, in the newest and in an old version.
        allow_effects: also place expressions that are known to change the training.
    """

    def __init__(
        self,
        history: History,
        *,
        entry_points: tuple[str, str] | None = None,
        allow_effects: bool = False,
    ) -> None:
        self._history = history
        self._entry_points = entry_points
        self._allow_effects = allow_effects
        self._hops: OrderedDict[tuple[object, ...], _Hop | None] = OrderedDict()
        self._known: dict[tuple[str, int], dict[int, _Carried]] = {}

    def longer(self, history: History) -> Chain:
        """The same chain over a history that goes on where this one ends; what was learnt is kept."""
        chain = Chain(history, entry_points=self._entry_points, allow_effects=self._allow_effects)
        chain._hops, chain._known = self._hops, self._known  # its own kind
        return chain

    def renames(self, index: int) -> Mapping[str, str]:
        """Files of the newest version that had another path in an older one: path → path there."""
        return self._between(0, index)

    def propagate(
        self,
        asked: Mapping[str, Iterable[int]],
        index: int,
        direct: PropagatedTree | None = None,
        *,
        over: Mapping[str, str] | None = None,
    ) -> PropagatedTree:
        """Put statements into one version of the history.

        Args:
            asked: file of the newest version → first lines of the new statements in it.
            index: which version.
            direct: what the direct way said, if that is known.
            over: texts of the version's files that gained other statements already.

        Returns:
            What the direct way placed, and what more could be placed through the versions between. A refusal says with
            which version the missing name, loop or function came, where the history tells.

        Raises:
            SourceSyntaxError: a file of the newest version is no Python.
        """
        over = over or {}
        newest, target = self._history.tree(0), PatchedTree(self._history.tree(index), over)
        outcome = direct or propagate_tree(
            newest, target, asked, renames=self._between(0, index), entry_points=self._entry_points,
            allow_effects=self._allow_effects,
        )  # fmt: skip
        for placed in outcome.placements:
            self._learn(placed, index, outcome)
        for refusal in outcome.refusals:
            if refusal.refusal.kind in FINAL:
                continue
            patched = {**over, **{path: state.source for path, state in outcome.files.items()}}
            hop = self._through(refusal, asked, index, patched)
            if hop is not None:
                outcome = _merged(outcome, refusal, hop)
                self._known.setdefault(_key(refusal), {})[index] = hop.carried
        told = tuple(self._told(r, index) for r in outcome.refusals)
        return replace(outcome, refusals=told)

    # ------------------------------------------------------------------ hops

    def _learn(self, placed: TreePlacement, index: int, outcome: PropagatedTree) -> None:
        state = outcome.files.get(placed.old_path)
        text = state.source if state is not None else self._history.tree(index).read(placed.old_path)
        if text is not None:
            key = placed.path, placed.placement.statement.lines[0]
            lines = _log_lines(text, placed.placement)
            carried = _Carried(
                index, placed.old_path, text, lines, placed.placement.renamed, placed.placement.score
            )
            self._known.setdefault(key, {})[index] = carried

    def _through(
        self,
        refusal: TreeRefusal,
        asked: Mapping[str, Iterable[int]],
        index: int,
        patched: Mapping[str, str],
    ) -> _Hop | None:
        """Carry a statement to a version by hops; None where it gets stuck."""
        text = self._history.tree(0).read(refusal.path)
        if text is None:
            return None
        first, last = refusal.refusal.statement.lines
        lines = tuple(n for n in sorted(set(asked[refusal.path])) if first <= n <= last) or (first,)
        known = self._known.setdefault(_key(refusal), {})
        current = _Carried(0, refusal.path, text, lines)
        nearer = [k for k in known if k < index]
        if nearer:
            current = known[max(nearer)]
        budget = _MOST_HOPS
        while budget > 0:
            if current.index:
                last_hop = self._hop(current, index, patched)
                budget -= 1
                if last_hop is not None:
                    return last_hop if self._keeps_loops(text, lines[0], last_hop.carried) else None
            further, spent = self._farthest(current, index)
            budget -= spent
            if further is None:
                return None
            current = known[further.index] = further
        return None

    @staticmethod
    def _keeps_loops(text: str, line: int, carried: _Carried) -> bool:
        return same_named_loops(text, line, carried.text, carried.lines[0])

    def _farthest(self, current: _Carried, index: int) -> tuple[_Carried | None, int]:
        """The oldest version before `index` that takes the statement in one hop, and how many hops were tried."""
        points = self._points(current, index)
        tried: dict[int, _Carried | None] = {}

        def test(spot: int) -> _Carried | None:
            if spot not in tried:
                hop = self._hop(current, points[spot], {})
                tried[spot] = hop.carried if hop is not None else None
            return tried[spot]

        good = next((k for k in range(min(_PASSED_OVER, len(points))) if test(k) is not None), None)
        if good is None:
            return None, len(tried)
        width = 1
        while good + width < len(points) and test(good + width) is not None:
            good, width = good + width, 2 * width
        bad = min(good + width, len(points))
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if test(middle) is not None else (good, middle)
        return tried[good], len(tried)

    def _points(self, current: _Carried, index: int) -> list[int]:
        """The versions between in which the statement's file changed, the newest first."""
        points: list[int] = []
        path: str | None = current.path
        for k in range(current.index, index - 1):
            if path is None or self._history.differs(k, path):
                points.append(k + 1)
            if path is not None:
                older = self._history.renames(k).get(path, path)
                path = older if older in self._history.tree(k + 1).paths() else None
        return points

    def _hop(self, current: _Carried, index: int, patched: Mapping[str, str]) -> _Hop | None:
        """Place a statement of one version in an older one; None where it is refused."""
        key = current.index, current.path, current.text, current.lines, index, tuple(sorted(patched.items()))
        if key in self._hops:
            self._hops.move_to_end(key)
            return self._hops[key]
        found = self._hopped(current, index, patched)
        self._hops[key] = found
        if len(self._hops) > _KEPT:
            self._hops.popitem(last=False)
        return found

    def _hopped(self, current: _Carried, index: int, patched: Mapping[str, str]) -> _Hop | None:
        target = PatchedTree(self._history.tree(index), patched)
        try:
            result = propagate_tree(
                current.tree(self._history), target, {current.path: current.lines},
                renames=self._between(current.index, index), allow_effects=self._allow_effects,
            )  # fmt: skip
        except SourceSyntaxError:
            return None
        if result.refusals or len(result.placements) != 1:
            return None
        placed = result.placements[0]
        state = result.files.get(placed.old_path)
        text = state.source if state is not None else target.read(placed.old_path)
        if text is None:
            return None
        carried = _Carried(
            index, placed.old_path, text, _log_lines(text, placed.placement),
            _composed(current.renamed, placed.placement.renamed), min(current.score, placed.placement.score),
        )  # fmt: skip
        return _Hop(carried, result)

    def _between(self, newer: int, older: int) -> dict[str, str]:
        """Renames from one version to an older one."""
        total: dict[str, str] = {}
        for k in range(newer, older):
            step = self._history.renames(k)
            total = {path: step.get(other, other) for path, other in total.items()}
            known = set(total.values())
            total |= {path: other for path, other in step.items() if path not in total and other not in known}
        return {path: other for path, other in total.items() if path != other}

    # ------------------------------------------------------------------ why not

    def _told(self, refusal: TreeRefusal, index: int) -> TreeRefusal:
        """Add to a refusal which version brought in what the old one lacks."""
        why = refusal.refusal
        if why.kind in FINAL:
            return refusal
        came = self._came_with(refusal, index)
        if came is not None:
            how = f"came with {self._history.label(came)}"
            if not self._history.goes_back(came):
                how = f"went with {self._history.label(came + 1)}"
            words = f"{why.sentence.rstrip('.')}; `{why.missing}` {how}."
            return replace(refusal, refusal=replace(why, sentence=words), came_with=came)
        known = self._known.get(_key(refusal), {})
        reached = max((k for k in known if k < index), default=None)
        if reached is None or reached == 0:
            return refusal
        words = f"{why.sentence.rstrip('.')}; back to {self._history.label(reached)} it has a place, before that it has none."
        return replace(refusal, refusal=replace(why, sentence=words), came_with=reached)

    def _came_with(self, refusal: TreeRefusal, index: int) -> int | None:
        """The version that has what is missing while the next older one of the same file has it no more."""
        why = refusal.refusal
        if not why.missing:
            return None
        path = refusal.path
        text = self._history.tree(0).read(path)
        if text is None or not has_thing(text, why.kind, why.missing):
            return None
        for k in range(index):
            if not self._history.differs(k, path):
                continue
            path = self._history.renames(k).get(path, path)
            older = self._history.tree(k + 1)
            text = older.read(path)
            if text is None or not has_thing(text, why.kind, why.missing):
                return None if self._elsewhere(k, path, why) else k
        return None

    def _elsewhere(self, index: int, path: str, why: Refusal) -> bool:
        """Whether what a step took out of a file was in another file before: then it moved, and did not come."""
        newer, older = self._history.tree(index), self._history.tree(index + 1)
        others = [p for p in python_files(older) if p != path and not unchanged(older, newer, p)]
        older.prepare(others)
        return any(has_thing(older.read(p) or "", why.kind, why.missing) for p in others)


def has_thing(text: str, kind: RefusalKind, missing: str) -> bool:
    """Whether a source text has what a refusal of this kind misses.

    Args:
        text: Python source; a text that is none has nothing.
        kind: the refusal's kind.
        missing: the name, the header of the loop or branch, the qualified function, the attribute or key.
    """
    module = parsed(text)
    if module is None:
        return False
    if kind == "no-function":
        return missing.rpartition(".")[2] in {name.rpartition(".")[2] for name in defined_functions(module)}
    statements = [n for n in ast.walk(module) if isinstance(n, ast.stmt)]
    if kind in ("no-loop", "no-branch"):
        compound = [s for s in statements if isinstance(s, (*LOOPS, ast.If, ast.Try, ast.Match, ast.With))]
        return any(ast.unparse(s).partition("\n")[0].rstrip(":") == missing for s in compound)
    if kind == "no-attribute":
        if missing.startswith("["):
            wanted = missing.strip("[]").strip("'\"")
            return any(isinstance(n, ast.Constant) and n.value == wanted for n in ast.walk(module))
        return any(missing in facts_of(s).chains for s in statements)
    arguments = {n.arg for n in ast.walk(module) if isinstance(n, ast.arg)}
    name = missing.partition(".")[0]
    return name in arguments or any(name in bound_by(s) for s in statements)


def _key(refusal: TreeRefusal) -> tuple[str, int]:
    return refusal.path, refusal.refusal.statement.lines[0]


def _log_lines(text: str, placement: Placement) -> tuple[int, ...]:
    """The first lines of the `flor.log`s of a placement, which may begin with what travelled along."""
    first, last = placement.lines
    return tuple(s.lines[0] for s in find_statements(text) if first <= s.lines[0] <= last) or (last,)


def _composed(
    first: Iterable[tuple[str, str]], then: Iterable[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    step = dict(then)
    total = {name: step.get(other, other) for name, other in first}
    middle = {other for _, other in first}
    total |= {name: other for name, other in step.items() if name not in total and name not in middle}
    return tuple(sorted((name, other) for name, other in total.items() if name != other))


def _merged(outcome: PropagatedTree, refusal: TreeRefusal, hop: _Hop) -> PropagatedTree:
    """Add a statement that came through the history to what is placed already."""
    last = hop.result.placements[0]
    placement = replace(
        last.placement,
        statement=refusal.refusal.statement,
        renamed=hop.carried.renamed,
        score=hop.carried.score,
    )
    placements = list(outcome.placements)
    files = dict(outcome.files)
    for path, state in hop.result.files.items():
        gained = list(state.added)
        placements = [
            replace(p, placement=moved_placement(p.placement, gained)) if p.old_path == path else p
            for p in placements
        ]
        earlier = files.get(path, PatchedFile(""))
        files[path] = PatchedFile(
            state.source,
            tuple(sorted({*_all_moved(earlier.added, gained), *state.added})),
            tuple(sorted({*_all_moved(earlier.rewritten, gained), *state.rewritten})),
        )
    placements.append(TreePlacement(refusal.path, last.old_path, placement))
    placements.sort(key=lambda p: (p.path, p.placement.statement.lines))
    left = tuple(r for r in outcome.refusals if r is not refusal)
    return PropagatedTree(files, tuple(placements), left)


def _all_moved(lines: Iterable[int], gained: list[int]) -> set[int]:
    moved: set[int] = set()
    for line in lines:
        for position in gained:
            if position <= line:
                line += 1
        moved.add(line)
    return moved
