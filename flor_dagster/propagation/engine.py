"""Propagation: put new statements into an old version, or say why not."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from flor_dagster.errors import SourceSyntaxError
from flor_dagster.propagation.analysis import BOM, Pair, analyse
from flor_dagster.propagation.clobbering import runs_again, spared
from flor_dagster.propagation.counterparts import counterpart, same_expression, there_already
from flor_dagster.propagation.effects import classify_unit, is_rank_test, waits_for_ranks
from flor_dagster.propagation.gaps import Gap
from flor_dagster.propagation.inserting import (
    Insertion,
    diff_of,
    in_same_layout,
    insert,
    insertion_point,
    split_lines,
    top_line,
)
from flor_dagster.propagation.model import Placement, Propagated, Refusal
from flor_dagster.propagation.muting import without_unasked
from flor_dagster.propagation.ordering import in_order, position_of
from flor_dagster.propagation.placing import Scored
from flor_dagster.propagation.reads import reads_of
from flor_dagster.propagation.refusing import line_of, refusal, sure, unreadable, without_place
from flor_dagster.propagation.rewriting import captured
from flor_dagster.propagation.statements import Found, read
from flor_dagster.propagation.syntax import compile_error
from flor_dagster.propagation.tree import Node
from flor_dagster.propagation.units import Unit, evaluated, units_at, units_of
from flor_dagster.propagation.writing import Writer

PROPAGATOR_VERSION = "4"


@dataclass(frozen=True, slots=True)
class _Placed:
    unit: Unit
    gap: Gap
    line: int
    text: tuple[str, ...]
    top: tuple[str, ...]
    score: float
    renamed: tuple[tuple[str, str], ...]
    carried: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _There:
    """The statement is in the old version already."""

    unit: Unit
    node: Node


@dataclass(frozen=True, slots=True)
class _Option:
    """A unit with the places it may have, best first."""

    unit: Unit
    candidates: tuple[Scored, ...]


def propagate(
    new_source: str, old_source: str, lines: Iterable[int], *, allow_effects: bool = False
) -> Propagated:
    """Put new statements of one version into an older version of the same file.

    A place is right only if it is in the counterpart of the same loop, every name that the statement reads is certainly
    assigned there, and the definitions that reach it are the counterparts. Anything else is refused with what is
    missing. The result depends on nothing but the arguments.

    Args:
        new_source: The version that has the statements.
        old_source: The version that is to get them.
        lines: 1-based first lines of the new statements in `new_source`.
        allow_effects: Also place expressions that are known to change the training.

    Returns:
        The old source with all statements that have a place; everything else in it is byte for byte the old source.

    Raises:
        SourceSyntaxError: `new_source` is no Python. (If `old_source` is not, the statements are refused.)
        PropagationError: a line holds no statement.
    """
    if old_source.startswith(BOM):
        result = propagate(new_source, old_source[1:], lines, allow_effects=allow_effects)
        return replace(result, source=BOM + result.source)
    new_source = new_source.removeprefix(BOM)
    wanted = sorted(set(lines))
    parsed = read(new_source, "new version")
    try:
        known = frozenset(f.statement.name for f in read(old_source, "old version").found)
    except SourceSyntaxError as error:
        return Propagated(
            old_source, (), tuple(unreadable(u, str(error)) for u in units_at(parsed, wanted)), ()
        )
    new_source = without_unasked(parsed, wanted, known)
    logs = {f.statement.lines[0] for f in parsed.found}
    extra = tuple(line for line in wanted if line not in logs)
    run = _Run(analyse(new_source, old_source, extra), allow_effects=allow_effects)
    result = run.run(wanted)
    if not run.closed_lines:
        return result
    # LibCST takes a third of a second to import, and few statements go to a line that must be opened.
    from flor_dagster.propagation.opening import open_lines

    opened = open_lines(old_source, sorted(run.closed_lines))
    if opened == old_source:
        return result
    run = _Run(analyse(new_source, opened, extra), allow_effects=allow_effects)
    return _with_opened(run.run(wanted), old_source, opened)


class _Run:
    """Places the units of one call."""

    def __init__(self, pair: Pair, *, allow_effects: bool) -> None:
        self._pair = pair
        self._old_source = pair.parsed_old.source
        self._old_lines = split_lines(self._old_source)
        self._allow_effects = allow_effects
        self.closed_lines: set[int] = set()

    def run(self, lines: list[int]) -> Propagated:
        units = units_of(self._pair, lines)
        writer = Writer(self._pair, self._pair.parsed_new.source, units)
        found = [self._one(unit) for unit in units]
        refusals = [f for f in found if isinstance(f, Refusal)]
        there = [f for f in found if isinstance(f, _There)]
        placed: list[_Placed] = []
        options = [f for f in found if isinstance(f, _Option)]
        asked = [(o.unit.gap(self._pair), o.candidates) for o in options]
        for option, best in zip(options, in_order(asked), strict=True):
            result = self._write(option.unit, best, writer)
            if isinstance(result, _Placed):
                placed.append(result)
            elif isinstance(result, Refusal):
                refusals.append(result)
            else:
                there.append(result)
        placed = _downwards(placed)
        source, firsts, added = self._inserted(placed)
        moved = _Moved(added)
        placements = [self._placement(p, firsts[i], moved) for i, p in enumerate(placed)]
        placements += [self._already(t, moved) for t in there]
        placements.sort(key=lambda p: p.statement.lines)
        refusals.sort(key=lambda r: r.statement.lines)
        return Propagated(source, tuple(placements), tuple(refusals), tuple(added))

    # ------------------------------------------------------------------ one unit

    def _one(self, unit: Unit) -> _Option | Refusal | _There:
        pair = self._pair
        beside: Node | None = None
        if len(unit.found) == 1 and unit.found[0].syntax in (unit.syntax, unit.holder):
            there = counterpart(pair, unit.found[0])
            if there is not None:
                beside = pair.nodes_old[id(there.syntax)]
                if same_expression(pair, unit.found[0], there):
                    return _There(unit, beside)
        refused = self._hindered(unit)
        if refused is not None:
            return refused
        reads = reads_of([unit.syntax])
        search = pair.placer.search(unit.gap(pair), reads, beside)
        refused = without_place(pair, unit, search)
        if refused is not None:
            return refused
        return _Option(unit, tuple(c for c in search.candidates if c.fits and sure(c)))

    def _hindered(self, unit: Unit) -> Refusal | None:
        if unit.hindrance:
            sentence = f"can't be put beside its statement: {unit.hindrance}."
            return refusal(unit, "unsupported-syntax", "", None, sentence)
        gap = unit.gap(self._pair)
        if unit.holder is not None and gap.block.is_elif:
            return refusal(
                unit,
                "unsupported-syntax",
                "",
                None,
                "is logged in an `elif`, before which nothing can stand.",
            )
        if self._allow_effects:
            return None
        if classify_unit(evaluated(unit, self._pair.parsed_new.spelled)) != "changes-training":
            return None
        sentence = (
            f"is not placed: `{unit.statement.expression}` would change the training that it "
            "observes; allow effects to place it nevertheless."
        )
        return refusal(unit, "changes-training", "", None, sentence)

    def _waits_alone(self, unit: Unit, place: Gap) -> bool:
        """Whether a unit waits for ranks that do not come to it."""
        if not waits_for_ranks(evaluated(unit, self._pair.parsed_new.spelled)):
            return False
        tests: list[ast.expr] = []
        for block in (unit.gap(self._pair).block, place.block):
            owners = [block.owner, *block.owner.ancestors()]
            tests += [o.syntax.test for o in owners if isinstance(o.syntax, (ast.If, ast.While))]
        tests += [n.test for n in ast.walk(unit.syntax) if isinstance(n, (ast.If, ast.While, ast.IfExp))]
        tests += [n for n in ast.walk(unit.syntax) if isinstance(n, ast.BoolOp)]
        return any(is_rank_test(test) for test in tests)

    def _write(self, unit: Unit, best: Scored, writer: Writer) -> _Placed | Refusal | _There:
        renamed = {r.name: r.old_name for r in best.names if r.name != r.old_name}
        if len(unit.found) == 1:
            there = there_already(self._pair, unit.found[0], best.gap, renamed)
            if there is not None:
                return _There(unit, self._pair.nodes_old[id(there.syntax)])
        point = insertion_point(self._old_lines, best.gap)
        if point is None:
            self.closed_lines.update(_shared_lines(best.gap))
            sentence = f"belongs between statements that share a line in this version, near line {line_of(best.gap)}."
            return refusal(unit, "unsupported-syntax", "", best, sentence)
        hidden = captured(unit.syntax, renamed)
        if hidden is not None:
            sentence = f"would need `{hidden}` of this version, which its own expression binds anew."
            return refusal(unit, "unsupported-syntax", hidden, best, sentence)
        if not self._allow_effects and self._waits_alone(unit, best.gap):
            sentence = (
                "is not placed: it waits for every rank of a distributed training, under a condition that not "
                "every rank meets; allow effects to place it nevertheless."
            )
            return refusal(unit, "changes-training", "", best, sentence)
        again = None if self._allow_effects else runs_again(self._pair, unit, best.gap, renamed)
        if again is not None:
            expression, line = again
            sentence = f"is not placed: this version runs `{expression}` itself, in line {line}, and would run it twice."
            return refusal(unit, "changes-training", expression, best, sentence)
        fresh = spared(self._pair, unit, best.gap)
        if isinstance(fresh, str):
            sentence = f"binds `{fresh}`, which this version uses for something else."
            return refusal(unit, "other-definition", fresh, best, sentence)
        line, indent = point
        line = in_same_layout(self._old_lines, line, best.gap, writer.above(unit))
        written = writer.write(unit, best, {**renamed, **fresh}, indent)
        carried = tuple(r.name for r in best.names if r.carry)
        names = tuple(sorted({**renamed, **fresh}.items()))
        placed = _Placed(unit, best.gap, line, written.text, written.top, best.score, names, carried)
        return self._broken(placed, best) or placed

    def _broken(self, placed: _Placed, best: Scored) -> Refusal | None:
        """A last look: whatever the reason, a text that does not compile is no answer."""
        source, _, _ = self._inserted([placed])
        error = compile_error(source)
        if error is None or compile_error(self._old_source) is not None:
            return None
        sentence = f"does not fit into line {placed.line} of this version: {error}."
        return refusal(placed.unit, "unsupported-syntax", "", best, sentence)

    # ------------------------------------------------------------------ all together

    def _inserted(self, placed: list[_Placed]) -> tuple[str, dict[int, int], list[int]]:
        """The text with everything placed, the first line of each, and all added lines."""
        insertions = [Insertion(p.line, order, p.text) for order, p in enumerate(placed)]
        tops = list(dict.fromkeys(line for p in placed for line in p.top))
        if tops:
            top = top_line(self._old_lines, self._pair.old.root)
            insertions.append(Insertion(top, -1, tuple(tops)))
        source, firsts = insert(self._old_source, insertions)
        added = sorted(
            line for i, first in firsts.items() for line in range(first, first + len(insertions[i].text))
        )
        return source, firsts, added

    def _placement(self, placed: _Placed, first: int, moved: _Moved) -> Placement:
        lines = (first, first + len(placed.text) - 1)
        alone, _, _ = self._inserted([placed])
        return Placement(
            placed.unit.statement,
            "placed",
            lines,
            round(placed.score, 2),
            placed.renamed,
            placed.carried,
            diff_of(self._old_source, alone),
            self._elsewhere(placed.unit, moved, None),
        )

    def _already(self, there: _There, moved: _Moved) -> Placement:
        node = there.node
        lines = (moved(node.line), moved(node.end_line))
        elsewhere = self._elsewhere(there.unit, moved, node)
        return Placement(there.unit.statement, "already-there", lines, 10.0, (), (), "", elsewhere)

    def _elsewhere(self, unit: Unit, moved: _Moved, but: Node | None) -> tuple[int, ...]:
        """Lines where the old version logs the same name, too."""
        known: list[Found] = [
            f
            for f in self._pair.parsed_old.found
            if f.statement.name is not None and f.statement.name == unit.statement.name
        ]
        return tuple(moved(f.statement.lines[0]) for f in known if but is None or f.syntax is not but.syntax)


def _downwards(placed: list[_Placed]) -> list[_Placed]:
    """In the order of their places; what goes into an inner block stays above what follows that block."""
    ordered: list[_Placed] = []
    line = 0
    for one in sorted(placed, key=lambda p: position_of(p.gap)):
        line = max(line, one.line)
        ordered.append(replace(one, line=line))
    return ordered


class _Moved:
    """Where a line of the old version is in the result."""

    def __init__(self, added: list[int]) -> None:
        self._added = added

    def __call__(self, line: int) -> int:
        for position in self._added:
            if position <= line:
                line += 1
        return line


def _shared_lines(gap: Gap) -> set[int]:
    near = (gap.before, gap.after, gap.block.items[0] if gap.block.items else None)
    return {n.line for n in near if n is not None}


def _with_opened(result: Propagated, old_source: str, opened: str) -> Propagated:
    """Count the lines that opening made among the added ones."""
    if not any(p.status == "placed" for p in result.placements):
        return Propagated(old_source, result.placements, result.refusals, ())
    before, after = split_lines(old_source), split_lines(opened)
    made: list[int] = []
    changed: list[int] = []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, i, j, x, y in matcher.get_opcodes():
        if tag != "equal":
            changed += range(x + 1, x + 1 + min(j - i, y - x))
            made += range(x + 1 + (j - i), y + 1)
    kept = [n for n in range(1, len(split_lines(result.source)) + 1) if n not in set(result.added)]
    added = sorted({*result.added, *(kept[n - 1] for n in made)})
    return Propagated(
        result.source, result.placements, result.refusals, tuple(added), tuple(kept[n - 1] for n in changed)
    )
