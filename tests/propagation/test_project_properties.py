"""What holds for every project: generated files, statements in some of them, functions in one file or another."""

from __future__ import annotations

import ast

from hypothesis import given
from hypothesis import strategies as st

from flor_dagster.propagation import HistoryOfTrees, PropagatedTree, propagate_tree
from flor_dagster.propagation.history import Chain
from tests.propagation.test_properties import COMMON, scripts, without

Made = list[tuple[str, int]]
PROJECTS = st.lists(scripts(), min_size=1, max_size=3)


def trees(made: Made) -> tuple[dict[str, str], dict[str, str], dict[str, list[int]]]:
    """New version, old version without the statements, the statements."""
    paths = [f"part_{n}.py" for n in range(len(made))]
    new = {path: source for path, (source, _) in zip(paths, made, strict=True)}
    old = {path: without(source, line) for path, (source, line) in zip(paths, made, strict=True)}
    asked = {path: [line] for path, (_, line) in zip(paths, made, strict=True)}
    return new, old, asked


def whole(old: dict[str, str], result: PropagatedTree) -> dict[str, str]:
    return {path: result.files[path].source if path in result.files else text for path, text in old.items()}


@COMMON
@given(PROJECTS)
def test_a_project_without_its_statements_gets_them_back(made: Made) -> None:
    new, old, asked = trees(made)
    result = propagate_tree(new, old, asked)
    assert not result.refusals
    assert whole(old, result) == new


@COMMON
@given(PROJECTS)
def test_untouched_files_and_lines_are_byte_identical(made: Made) -> None:
    new, old, asked = trees(made)
    asked = {path: lines for path, lines in asked.items() if path == "part_0.py"}
    result = propagate_tree(new, old, asked)
    assert set(result.files) <= {"part_0.py"}
    for path, patched in result.files.items():
        kept = [row for n, row in enumerate(patched.source.split("\n"), 1) if n not in patched.added]
        assert "\n".join(kept) == old[path]


@COMMON
@given(PROJECTS, scripts())
def test_every_statement_is_placed_or_refused_and_the_result_parses(
    made: Made, other: tuple[str, int]
) -> None:
    new, old, asked = trees(made)
    old["part_0.py"] = without(*other)
    result = propagate_tree(new, old, asked)
    told = [p.path for p in result.placements] + [r.path for r in result.refusals]
    assert sorted(told) == sorted(asked)
    for patched in result.files.values():
        ast.parse(patched.source)
    for placed in result.placements:
        if placed.placement.status == "placed":
            row = result.files[placed.old_path].source.split("\n")[placed.placement.lines[1] - 1]
            assert "flor.log('Q'" in row


@COMMON
@given(PROJECTS, scripts())
def test_the_same_project_has_the_same_answer(made: Made, other: tuple[str, int]) -> None:
    new, old, asked = trees(made)
    old["part_0.py"] = without(*other)
    assert propagate_tree(new, old, asked) == propagate_tree(dict(reversed(new.items())), old, asked)


@COMMON
@given(PROJECTS, scripts())
def test_the_way_through_the_history_places_no_less(made: Made, other: tuple[str, int]) -> None:
    new, middle, asked = trees(made)
    old = {**middle, "part_0.py": without(*other)}
    direct = propagate_tree(new, old, asked)
    versions = HistoryOfTrees([("newest", new), ("middle", middle), ("oldest", old)])
    chained = Chain(versions).propagate(asked, 2)
    placed = {p.path: p for p in chained.placements}
    for one in direct.placements:
        assert placed[one.path].old_path == one.old_path
    assert len(chained.placements) + len(chained.refusals) == len(asked)


@COMMON
@given(scripts())
def test_a_renamed_file_is_as_good_as_one_that_kept_its_name(made: tuple[str, int]) -> None:
    source, line = made
    old = without(source, line)
    renamed = propagate_tree({"b.py": source}, {"a.py": old}, {"b.py": [line]}, renames={"b.py": "a.py"})
    assert [f.source for f in renamed.files.values()] == [source]
