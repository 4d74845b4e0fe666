"""Which `flor.log` statements two versions share: the same name, logged at the matched place."""

from __future__ import annotations

import ast

from flor_dagster.parsing import parse_python
from flor_dagster.propagation.analysis import BOM, Pair, analyse
from flor_dagster.propagation.gaps import Gap
from flor_dagster.propagation.model import Statement
from flor_dagster.propagation.reads import reads_of
from flor_dagster.propagation.rewriting import rewritten
from flor_dagster.propagation.statements import Found, bound_to


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
    pair = analyse(new_source.removeprefix(BOM), old_source.removeprefix(BOM))
    shared: list[tuple[Statement, Statement, bool]] = []
    for new in pair.parsed_new.found:
        old = counterpart(pair, new)
        if old is not None:
            shared.append((new.statement, old.statement, same_expression(pair, new, old)))
    return tuple(shared)


def counterpart(pair: Pair, new: Found) -> Found | None:
    """The statement of the old version that logs the same name in the counterpart of the same line."""
    node = pair.nodes_new.get(id(new.syntax))
    other = None if node is None else pair.matching.old_of(node)
    if node is None or other is None or node.block is None or other.block is None:
        return None
    if not pair.placer.same_place(Gap(node.block, node.index), Gap(other.block, other.index)):
        return None
    here = [f for f in pair.parsed_old.found if f.syntax is other.syntax]
    named = [f for f in here if f.statement.name == new.statement.name]
    if new.form == "alone" and not named:
        named = here  # the statement was renamed, and nothing else about it
    return named[0] if named else None


def same_expression(pair: Pair, new: Found, old: Found) -> bool:
    """Whether two statements log the same, each in its version's names."""
    at, old_at = _gap(pair, new, new=True), _gap(pair, old, new=False)
    if at is None or old_at is None:
        return False
    theirs = spellings(old)
    for text in spellings(new):
        expression = parse_python(text or "None", mode="eval").body
        resolved = pair.names.resolve(
            reads_of([expression]), (at.block, at.index), (old_at.block, old_at.index)
        )
        mapping = {r.name: r.old_name for r in resolved}
        if rewritten(ast.unparse(expression), mapping) in theirs:
            return True
    return False


def spellings(found: Found) -> tuple[str, ...]:
    """Expressions for what a statement logs: the one it gives, and where it puts the value."""
    target = bound_to(found)
    return (found.statement.expression, *([target] if target else []))


def _gap(pair: Pair, found: Found, *, new: bool) -> Gap | None:
    """The place of a statement; one that is assigned is read after the assignment."""
    node = (pair.nodes_new if new else pair.nodes_old).get(id(found.syntax))
    if node is None or node.block is None:
        left_out = pair.new.gaps.get(id(found.syntax)) if new else None
        return None if left_out is None else Gap(*left_out)
    return Gap(node.block, node.index + (found.form == "assigned"))


def there_already(pair: Pair, new: Found, place: Gap, renamed: dict[str, str]) -> Found | None:
    """A statement of the old version that logs the same from another line, with nothing between that could matter."""
    wanted = {rewritten(text, renamed) for text in spellings(new) if text}
    for old in pair.parsed_old.found:
        if old.statement.name != new.statement.name or not wanted & set(spellings(old)):
            continue
        gap = _gap(pair, old, new=False)
        if gap is None or gap.block is not place.block:
            continue
        low, high = sorted((gap.index, place.index))
        # The line that logs is itself no obstacle where it lies between.
        between = [n for n in place.block.items[low:high] if n.syntax is not old.syntax]
        reads = {name.partition(".")[0] for text in spellings(old) for name in _names(text)}
        if all(not n.is_compound and not reads & set(n.facts.names) for n in between):
            return old
    return None


def _names(text: str) -> list[str]:
    return [n.id for n in ast.walk(parse_python(text or "None")) if isinstance(n, ast.Name)]
