"""Propagation: put new statements into an old version, or say why not."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from flor_dagster.errors import PropagationError, SourceSyntaxError
from flor_dagster.propagation.analysis import Pair, analyse
from flor_dagster.propagation.carrying import is_ours
from flor_dagster.propagation.effects import classify
from flor_dagster.propagation.inserting import (
    Insertion,
    in_same_layout,
    indentation,
    insert,
    insertion_point,
    is_filler,
    split_lines,
    top_line,
)
from flor_dagster.propagation.model import Placement, Propagated, Refusal, RefusalKind, Statement
from flor_dagster.propagation.nesting import Nest
from flor_dagster.propagation.opening import open_lines
from flor_dagster.propagation.placing import Gap, Scored, Search
from flor_dagster.propagation.reads import reads_of
from flor_dagster.propagation.rewriting import captured, inside_strings, rewritten
from flor_dagster.propagation.statements import Parsed, logged, logged_expression, read
from flor_dagster.propagation.tree import LOOPS, Node, block_parts, compile_error

PROPAGATOR_VERSION = "1"

_BOM = "\ufeff"
_LEAST_SCORE = 1.6
_LEAST_EVIDENCE = 0.45


@dataclass(frozen=True, slots=True)
class _Unit:
    """What travels as one: a statement, or the block of new statements around it."""

    statement: Statement
    syntax: ast.stmt
    inner: tuple[ast.stmt, ...]


@dataclass(frozen=True, slots=True)
class _Placed:
    unit: _Unit
    gap: Gap
    line: int
    text: tuple[str, ...]
    top: tuple[str, ...]
    score: float
    renamed: tuple[tuple[str, str], ...]
    carried: tuple[str, ...]


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
    if old_source.startswith(_BOM):
        result = propagate(new_source, old_source[1:], lines, allow_effects=allow_effects)
        return replace(result, source=_BOM + result.source)
    new_source = new_source.removeprefix(_BOM)
    wanted = sorted(set(lines))
    parsed = read(new_source, "new version")
    try:
        read(old_source, "old version")
    except SourceSyntaxError as error:
        units = [
            _Unit(_describe(parsed, s), s, (s,)) for line in wanted for s in _statements_at(parsed, line)
        ]
        return Propagated(old_source, (), tuple(_unreadable(u, str(error)) for u in units), ())
    logs = {f.syntax.lineno for f in parsed.found}
    extra = tuple(line for line in wanted if line not in logs)
    pair = analyse(new_source, old_source, extra)
    run = _Run(pair, new_source, old_source, allow_effects=allow_effects)
    result = run.run(_units(pair, wanted))
    if not run.closed_lines:
        return result
    opened = open_lines(old_source, sorted(run.closed_lines))
    if opened == old_source:
        return result
    pair = analyse(new_source, opened, extra)
    run = _Run(pair, new_source, opened, allow_effects=allow_effects)
    return _with_opened(run.run(_units(pair, wanted)), old_source, opened)


def counterparts(new_source: str, old_source: str) -> tuple[tuple[Statement, Statement, bool], ...]:
    """Pair the `flor.log` statements that two versions share.

    Args:
        new_source: The newer version.
        old_source: The older version.

    Returns:
        (new, old, whether the expressions are equal once the old version's names are put in) for each statement of
        `new_source` that has a counterpart: the same name logged at the matched place.

    Raises:
        SourceSyntaxError: one of the texts is no Python.
    """
    pair = analyse(new_source.removeprefix(_BOM), old_source.removeprefix(_BOM))
    found: list[tuple[Statement, Statement, bool]] = []
    olds = {id(f.syntax): f for f in pair.parsed_old.found}
    for new in pair.parsed_new.found:
        other = _counterpart(pair, new.syntax)
        if other is not None:
            old = olds[id(other.syntax)]
            found.append((new.statement, old.statement, _same_expression(pair, new.syntax, other)))
    return tuple(found)


# ---------------------------------------------------------------------- units


def _statements_at(parsed: Parsed, line: int) -> list[ast.stmt]:
    """The new statements that start on a line: `flor.log` ones if there are any, else the smallest one there."""
    logs = [f.syntax for f in parsed.found if f.syntax.lineno == line]
    if logs:
        return logs
    here = [
        n
        for n in ast.walk(parsed.module)
        if isinstance(n, ast.stmt) and n.lineno <= line <= (n.end_lineno or 0)
    ]
    starting = [n for n in here if n.lineno == line]
    if starting:
        return [max(starting, key=lambda n: (n.end_lineno or 0) - n.lineno)]
    simple = [n for n in here if not any(True for _ in block_parts(n))]
    if not simple:
        raise PropagationError(f"line {line} of the new version holds no statement")
    return simple[-1:]


def _describe(parsed: Parsed, syntax: ast.stmt) -> Statement:
    for found in parsed.found:
        if found.syntax is syntax:
            return found.statement
    inner = [
        f.statement for f in parsed.found if syntax.lineno <= f.statement.lines[0] <= (syntax.end_lineno or 0)
    ]
    lines = (syntax.lineno, syntax.end_lineno or syntax.lineno)
    if inner:
        first = inner[0]
        return Statement(first.name, first.expression, lines, first.function, first.loops, first.ordinal)
    return Statement(None, ast.unparse(syntax), lines, "<module>", (), 0)


def _units(pair: Pair, lines: list[int]) -> list[_Unit]:
    """Statements with the outermost all-new block around each; one unit for all statements of a block."""
    parsed = pair.parsed_new
    chosen = {id(s): s for line in lines for s in _statements_at(parsed, line)}
    parents: dict[int, ast.stmt] = {}
    for node in ast.walk(parsed.module):
        if isinstance(node, ast.stmt):
            for _, _, body in block_parts(node):
                parents.update({id(child): node for child in body})
    units: dict[int, _Unit] = {}
    for statement in chosen.values():
        top = statement
        while (parent := parents.get(id(top))) is not None and _left_out_whole(pair, parent, chosen):
            top = parent
        known = units.get(id(top))
        inner = (*(known.inner if known else ()), statement)
        units[id(top)] = _Unit(_describe(parsed, top), top, inner)
    return list(units.values())


def _left_out_whole(pair: Pair, parent: ast.stmt, chosen: dict[int, ast.stmt]) -> bool:
    """Whether a block is new in all its parts and all of them are asked for."""
    if id(parent) in pair.nodes_new:
        return False
    inner = [n for n in ast.walk(parent) if isinstance(n, ast.stmt) and not any(True for _ in block_parts(n))]
    return all(id(n) in chosen or isinstance(n, ast.Pass) for n in inner)


def _unreadable(unit: _Unit, why: str) -> Refusal:
    return Refusal(
        unit.statement, "unsupported-syntax", "", None, None, f"{_label(unit)} has no place: {why}."
    )


def _label(unit: _Unit) -> str:
    return f"`{unit.statement.name or ast.unparse(unit.syntax).splitlines()[0]}`"


# ---------------------------------------------------------------------- counterparts


def _counterpart(pair: Pair, syntax: ast.stmt) -> Node | None:
    """The old statement that logs the same name at the matched place."""
    node = pair.nodes_new.get(id(syntax))
    other = None if node is None else pair.matching.old_of(node)
    if node is None or other is None or node.block is None or other.block is None:
        return None
    if id(other.syntax) not in {id(f.syntax) for f in pair.parsed_old.found}:
        return None
    here, there = Gap(node.block, node.index), Gap(other.block, other.index)
    return other if pair.placer.same_place(here, there) else None


def _same_expression(pair: Pair, syntax: ast.stmt, other: Node) -> bool:
    call = logged(syntax, pair.parsed_new.spelled)
    theirs = next(f.statement.expression for f in pair.parsed_old.found if f.syntax is other.syntax)
    if call is None or other.block is None:
        return False
    expression = ast.parse(logged_expression(call) or "None", mode="eval").body
    gap = pair.gap(syntax)
    mapping: dict[str, str] = {}
    for found in pair.names.resolve(
        reads_of([expression]), (gap.block, gap.index), (other.block, other.index)
    ):
        mapping[found.name] = found.old_name
    return rewritten(ast.unparse(expression), mapping) == theirs


# ---------------------------------------------------------------------- placing


class _Run:
    """Places the units of one call."""

    def __init__(self, pair: Pair, new_source: str, old_source: str, *, allow_effects: bool) -> None:
        self._pair = pair
        self._new_source = new_source
        self._new_lines = split_lines(new_source)
        self._old_source = old_source
        self._old_lines = split_lines(old_source)
        self._allow_effects = allow_effects
        self.closed_lines: set[int] = set()
        self._unit_lines: set[int] = set()

    def run(self, units: list[_Unit]) -> Propagated:
        placed: list[_Placed] = []
        there: list[tuple[_Unit, Node]] = []
        for unit in units:
            self._unit_lines.update(range(unit.syntax.lineno, (unit.syntax.end_lineno or 0) + 1))
        refusals: list[Refusal] = []
        for unit in units:
            result = self._one(unit)
            if isinstance(result, _Placed):
                broken = self._broken(result)
                if broken is not None:
                    refusals.append(broken)
                else:
                    placed.append(result)
            elif isinstance(result, Refusal):
                refusals.append(result)
            else:
                there.append((unit, result))
        source, firsts, added = self._inserted(placed)
        placements = [self._placement(p, firsts[i]) for i, p in enumerate(placed)]
        placements += [self._already(unit, node, added) for unit, node in there]
        placements.sort(key=lambda p: p.statement.lines)
        return Propagated(source, tuple(placements), tuple(refusals), tuple(added))

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

    def _broken(self, placed: _Placed) -> Refusal | None:
        """A last look: whatever the reason, a text that does not compile is no answer."""
        source, _, _ = self._inserted([placed])
        error = compile_error(source)
        if error is None or compile_error(self._old_source) is not None:
            return None
        sentence = f"{_label(placed.unit)} does not fit into line {placed.line} of this version: {error}."
        return self._refusal(placed.unit, "unsupported-syntax", "", None, sentence)

    def _placement(self, placed: _Placed, first: int) -> Placement:
        lines = (first, first + len(placed.text) - 1)
        alone, _, _ = self._inserted([placed])
        return Placement(
            placed.unit.statement,
            "placed",
            lines,
            round(placed.score, 2),
            placed.renamed,
            placed.carried,
            _diff(self._old_source, alone),
        )

    def _already(self, unit: _Unit, node: Node, added: list[int]) -> Placement:
        def moved(line: int) -> int:
            for position in added:
                if position <= line:
                    line += 1
            return line

        lines = (moved(node.line), moved(node.end_line))
        return Placement(unit.statement, "already-there", lines, 10.0, (), (), "")

    def _one(self, unit: _Unit) -> _Placed | Refusal | Node:
        beside: Node | None = None
        if len(unit.inner) == 1 and unit.inner[0] is unit.syntax:
            beside = _counterpart(self._pair, unit.syntax)
            if beside is not None and _same_expression(self._pair, unit.syntax, beside):
                return beside
        effects = self._effects(unit)
        if effects is not None:
            return effects
        reads = reads_of([unit.syntax])
        search = self._pair.placer.search(self._pair.gap(unit.syntax), reads, beside)
        return self._choose(unit, search)

    def _effects(self, unit: _Unit) -> Refusal | None:
        if self._allow_effects:
            return None
        parts: list[ast.AST] = []
        for statement in ast.walk(unit.syntax):
            if isinstance(statement, (*LOOPS, ast.If, ast.With)):
                parts += [n for n in ast.iter_child_nodes(statement) if not isinstance(n, ast.stmt)]
        for statement in unit.inner:
            call = logged(statement, self._pair.parsed_new.spelled)
            parts += [call.args[1]] if call is not None and len(call.args) > 1 else []
        if classify(*parts) != "changes-training":
            return None
        sentence = (
            f"{_label(unit)} is not placed: `{unit.statement.expression}` would change the training that it "
            "observes; allow effects to place it nevertheless."
        )
        return Refusal(unit.statement, "changes-training", "", None, None, sentence)

    def _choose(self, unit: _Unit, search: Search) -> _Placed | Refusal:
        if not search.candidates:
            return self._no_loop(unit, search)
        best = search.candidates[0]
        if not best.readable:
            return self._unreadable_names(unit, search)
        if search.lost_branch is not None:
            return self._no_branch(unit, search.lost_branch, best)
        if search.strayed is not None:
            return self._strayed(unit, search.strayed, best)
        if search.torn:
            return self._torn(unit, best)
        if best.score < _LEAST_SCORE or best.evidence < _LEAST_EVIDENCE:
            return self._weak(unit, best)
        point = insertion_point(self._old_lines, best.gap)
        if point is None:
            self.closed_lines.update(self._shared_lines(best.gap))
            sentence = (
                f"{_label(unit)} belongs between statements that share a line in this version, "
                f"near line {self._line(best.gap)}."
            )
            return self._refusal(unit, "unsupported-syntax", "", best, sentence)
        line, indent = point
        line = in_same_layout(self._old_lines, line, best.gap, self._above(unit))
        renamed = tuple(sorted((r.name, r.old_name) for r in best.names if r.name != r.old_name))
        hidden = captured(unit.syntax, dict(renamed))
        if hidden is not None:
            sentence = (
                f"{_label(unit)} would need `{hidden}` of this version, which its own expression binds anew."
            )
            return self._refusal(unit, "unsupported-syntax", hidden, best, sentence)
        luggage, tops = self._luggage(best, indent)
        text = (*luggage, *self._text(unit.syntax, dict(renamed), indent))
        carried = tuple(r.name for r in best.names if r.carry)
        return _Placed(unit, best.gap, line, text, tops, best.score, renamed, carried)

    def _above(self, unit: _Unit) -> list[str]:
        """Blank lines and comments between a new statement and the one before it that is not new."""
        found: list[str] = []
        for number in range(unit.syntax.lineno - 1, 0, -1):
            text = self._new_lines[number - 1]
            if number not in self._unit_lines:
                if not is_filler(text):
                    break
                found.append(text)
        return found[::-1]

    def _shared_lines(self, gap: Gap) -> set[int]:
        near = [
            n
            for n in (gap.before, gap.after, gap.block.items[0] if gap.block.items else None)
            if n is not None
        ]
        return {n.line for n in near}

    # ------------------------------------------------------------------ texts

    def _luggage(self, best: Scored, indent: str) -> tuple[list[str], tuple[str, ...]]:
        """Lines of what travels along: before the statement, and at the top of the file."""
        lines: dict[object, tuple[str, ...]] = {}
        tops: list[str] = []
        for name in (r.name for r in best.names if r.carry):
            packed = self._pair.carrier.pack(name, best.gap.block, best.gap.index)
            for node in packed.nodes if packed is not None else ():
                if is_ours(node):
                    tops.append(ast.unparse(node))
                elif isinstance(node, (ast.Import, ast.ImportFrom)):
                    lines[ast.unparse(node)] = (indent + ast.unparse(node),)
                else:
                    lines[id(node)] = self._text(node, {}, indent)
        return [line for text in lines.values() for line in text], tuple(tops)

    def _text(self, syntax: ast.stmt, renamed: dict[str, str], indent: str) -> tuple[str, ...]:
        """A new statement's lines in the old version's names and indentation."""
        source = ast.get_source_segment(self._new_source, syntax) or ast.unparse(syntax)
        own = indentation(self._new_lines, syntax.lineno)
        text = rewritten(source, renamed) if renamed else source
        lines = [line.rstrip("\r\n") for line in split_lines(text)]
        fixed = inside_strings(text)
        return (
            indent + lines[0],
            *(
                line if number in fixed else _shifted(line, own, indent)
                for number, line in enumerate(lines[1:], start=2)
            ),
        )

    # ------------------------------------------------------------------ refusals

    def _line(self, gap: Gap) -> int:
        if gap.after is not None:
            return gap.after.line
        return gap.before.end_line + 1 if gap.before is not None else gap.block.owner.line

    def _refusal(
        self, unit: _Unit, kind: RefusalKind, missing: str, best: Scored | None, sentence: str
    ) -> Refusal:
        line = None if best is None else self._line(best.gap)
        score = None if best is None else round(best.score, 2)
        return Refusal(unit.statement, kind, missing, line, score, sentence)

    def _no_loop(self, unit: _Unit, search: Search) -> Refusal:
        loop = search.lost_loop
        if loop is None:
            sentence = (
                f"{_label(unit)} has no place: everything like its surroundings is in a loop in this version."
            )
            return self._refusal(unit, "no-loop", "", None, sentence)
        header = ast.unparse(loop.syntax).splitlines()[0].rstrip(":")
        sentence = f"{_label(unit)} is logged in the loop `{header}`, which this version does not have."
        return self._refusal(unit, "no-loop", header, None, sentence)

    def _torn(self, unit: _Unit, best: Scored) -> Refusal:
        sentence = (
            f"{_label(unit)} could go in two places: the statements before and after it are in different functions "
            f"in this version; one of them is line {self._line(best.gap)}."
        )
        return self._refusal(unit, "weak-place", "", best, sentence)

    def _strayed(self, unit: _Unit, strayed: tuple[Nest, Nest], best: Scored) -> Refusal:
        wanted, found = strayed
        line = self._line(best.gap)
        sentence = (
            f"{_label(unit)} belongs in {wanted}, and the best place that this version has for it, line {line}, "
            f"is in {found}."
        )
        return self._refusal(unit, "no-loop", " > ".join(wanted.loops), best, sentence)

    def _no_branch(self, unit: _Unit, branch: Node, best: Scored) -> Refusal:
        header = ast.unparse(branch.syntax).splitlines()[0].rstrip(":")
        sentence = (
            f"{_label(unit)} is logged under `{header}`, of which this version has nothing; "
            f"the nearest place is line {self._line(best.gap)}."
        )
        return self._refusal(unit, "no-branch", header, best, sentence)

    def _unreadable_names(self, unit: _Unit, search: Search) -> Refusal:
        best = max(search.candidates, key=lambda s: (s.score, -s.gap.block.number, -s.gap.index))
        lost = next(r for r in best.names if r.refused is not None)
        if self._lost_function(unit) is not None and lost.refused == "no-variable":
            return self._weak(unit, best)
        kind = lost.refused or "no-variable"
        line = self._line(best.gap)
        how = {
            "no-attribute": "does not have",
            "not-definite": f"does not certainly assign before line {line}",
        }
        what = how.get(kind, f"never assigns before line {line}")
        near = difflib.get_close_matches(
            lost.name, self._pair.names.readable(best.gap.block, best.gap.index), n=1
        )
        hint = f"; the nearest name is `{near[0]}`" if near and kind == "no-variable" else ""
        sentence = f"{_label(unit)} reads `{lost.name}`, which this version {what}{hint}."
        return self._refusal(unit, kind, lost.name, best, sentence)

    def _lost_function(self, unit: _Unit) -> Node | None:
        """The function around a statement, where the old version has none like it and it was not written out."""
        block = self._pair.gap(unit.syntax).block
        scope = block.owner if block.owner.is_scope else block.owner.scope
        if scope is None or not scope.number or self._pair.matching.old_of(scope) is not None:
            return None
        return None if any(self._pair.matching.old_of(n) for n in list(scope.walk())[1:]) else scope

    def _weak(self, unit: _Unit, best: Scored) -> Refusal:
        line = self._line(best.gap)
        scope = self._lost_function(unit)
        if scope is not None:
            name = self._pair.new.qualified(scope)
            sentence = (
                f"{_label(unit)} is logged in `{name}`, which this version does not have; "
                f"the nearest place is line {line}."
            )
            return self._refusal(unit, "no-function", name, best, sentence)
        sentence = f"{_label(unit)} has no place that is sure enough; the nearest is line {line}."
        return self._refusal(unit, "weak-place", "", best, sentence)


def _with_opened(result: Propagated, old_source: str, opened: str) -> Propagated:
    """Count the lines that opening made among the added ones."""
    if not result.placements:
        return Propagated(old_source, (), result.refusals, ())
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


def _shifted(line: str, own: str, indent: str) -> str:
    return indent + line[len(own) :] if line.startswith(own) else line


def _diff(old: str, new: str) -> str:
    lines = difflib.unified_diff(
        [part.rstrip("\r\n") for part in split_lines(old)],
        [part.rstrip("\r\n") for part in split_lines(new)],
        "old version",
        "with the statement",
        lineterm="",
        n=3,
    )
    return "\n".join(lines)
