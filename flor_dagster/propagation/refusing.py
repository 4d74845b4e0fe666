"""Why a statement has no place, in a sentence that a person can act on."""

from __future__ import annotations

import ast
import difflib

from flor_dagster.propagation.agreement import Crossing
from flor_dagster.propagation.analysis import Pair
from flor_dagster.propagation.gaps import Gap
from flor_dagster.propagation.model import Refusal, RefusalKind
from flor_dagster.propagation.placing import Scored, Search
from flor_dagster.propagation.tree import Node
from flor_dagster.propagation.units import Unit

_LEAST_SCORE = 1.6
_LEAST_EVIDENCE = 0.45


def line_of(gap: Gap) -> int:
    """The line of the old version that a gap is before."""
    if gap.after is not None:
        return gap.after.line
    return gap.before.end_line + 1 if gap.before is not None else gap.block.owner.line


def refusal(unit: Unit, kind: RefusalKind, missing: str, best: Scored | None, sentence: str) -> Refusal:
    """Refuse a unit; `sentence` goes on after its name."""
    line = None if best is None else line_of(best.gap)
    score = None if best is None else round(best.score, 2)
    return Refusal(unit.statement, kind, missing, line, score, f"{unit.label} {sentence}")


def unreadable(unit: Unit, why: str) -> Refusal:
    """The old version is no Python."""
    return refusal(unit, "unsupported-syntax", "", None, f"has no place: {why}.")


def without_place(pair: Pair, unit: Unit, search: Search) -> Refusal | None:
    """Why what a search found is no place, or None if it is one."""
    if search.only_branches:
        sentence = (
            "has no place: everything like its surroundings is under conditions of its own in this version."
        )
        return refusal(unit, "no-branch", "", None, sentence)
    if not search.candidates:
        return _no_loop(pair, unit, search)
    best = search.candidates[0]
    if not best.readable:
        return _unreadable_names(pair, unit, search)
    if best.crossing is not None:
        return _crossed(unit, best, best.crossing)
    if search.lost_branch is not None:
        return _no_branch(unit, search.lost_branch, best)
    if search.strayed is not None:
        wanted, found = search.strayed
        sentence = (
            f"belongs in {wanted}, and the best place that this version has for it, line {line_of(best.gap)}, "
            f"is in {found}."
        )
        return refusal(unit, "no-loop", " > ".join(wanted.loops), best, sentence)
    if search.torn:
        sentence = (
            "could go in two places: the statements before and after it are in different functions "
            f"in this version; one of them is line {line_of(best.gap)}."
        )
        return refusal(unit, "weak-place", "", best, sentence)
    if search.copy is not None:
        sentence = (
            f"could go in two places: the code around it stands in this version at line {line_of(best.gap)} and at line "
            f"{search.copy.line}."
        )
        return refusal(unit, "weak-place", "", best, sentence)
    return None if sure(best) else _weak(pair, unit, best)


def sure(candidate: Scored) -> bool:
    """Whether enough speaks for a place."""
    return candidate.score >= _LEAST_SCORE and candidate.evidence >= _LEAST_EVIDENCE


def _header(node: Node) -> str:
    return ast.unparse(node.syntax).splitlines()[0].rstrip(":")


def _no_loop(pair: Pair, unit: Unit, search: Search) -> Refusal:
    if search.lost_loop is None:
        sentence = "has no place: everything like its surroundings is in a loop in this version."
        return refusal(unit, "no-loop", "", None, sentence)
    header = _header(search.lost_loop)
    same = [n for n in pair.old.nodes if n.kind == "loop" and _header(n) == header]
    if same:
        sentence = f"is logged in the loop `{header}`; this version has one of that line, line {same[0].line}, around other code."
        return refusal(unit, "no-loop", header, None, sentence)
    sentence = f"is logged in the loop `{header}`, which this version does not have."
    return refusal(unit, "no-loop", header, None, sentence)


def _no_branch(unit: Unit, branch: Node, best: Scored) -> Refusal:
    header = _header(branch)
    sentence = (
        f"is logged under `{header}`, of which this version has nothing; "
        f"the nearest place is line {line_of(best.gap)}."
    )
    return refusal(unit, "no-branch", header, best, sentence)


def _unreadable_names(pair: Pair, unit: Unit, search: Search) -> Refusal:
    best = max(search.candidates, key=lambda s: (s.score, -s.gap.block.number, -s.gap.index))
    lost = next(r for r in best.names if r.refused is not None)
    if _lost_function(pair, unit) is not None and lost.refused == "no-variable":
        return _weak(pair, unit, best)
    kind = lost.refused or "no-variable"
    line = line_of(best.gap)
    how = {
        "no-attribute": "does not have",
        "not-definite": f"does not certainly assign before line {line}",
        "other-definition": f"uses for something else at line {line}",
    }
    what = how.get(kind, f"never assigns before line {line}")
    names = pair.names.readable(best.gap.block, best.gap.index)
    near = difflib.get_close_matches(lost.name, names, n=1) if kind == "no-variable" else []
    hint = f"; the nearest name is `{near[0]}`" if near else ""
    return refusal(unit, kind, lost.name, best, f"reads `{lost.name}`, which this version {what}{hint}.")


def _crossed(unit: Unit, best: Scored, crossing: Crossing) -> Refusal:
    what = ast.unparse(crossing.node.syntax).splitlines()[0].rstrip(":")
    side = {"before": "after", "after": "before"}[crossing.side]
    sentence = (
        f"reads `{crossing.chain}` {side} `{what}` may have changed it; in this version the place that is like its own, "
        f"line {line_of(best.gap)}, is on the other side of that (line {crossing.node.line})."
    )
    return refusal(unit, "other-definition", crossing.chain, best, sentence)


def _lost_function(pair: Pair, unit: Unit) -> Node | None:
    """The function around a statement, where the old version has none like it and it was not written out."""
    block = unit.gap(pair).block
    scope = block.owner if block.owner.is_scope else block.owner.scope
    if scope is None or not scope.number or pair.matching.old_of(scope) is not None:
        return None
    return None if any(pair.matching.old_of(n) for n in list(scope.walk())[1:]) else scope


def _weak(pair: Pair, unit: Unit, best: Scored) -> Refusal:
    line = line_of(best.gap)
    scope = _lost_function(pair, unit)
    if scope is not None:
        name = pair.new.qualified(scope)
        sentence = (
            f"is logged in `{name}`, which this version does not have; the nearest place is line {line}."
        )
        return refusal(unit, "no-function", name, best, sentence)
    sentence = f"has no place that is sure enough; the nearest is line {line}."
    return refusal(unit, "weak-place", "", best, sentence)
