"""Threads that parse at once get their trees."""

from __future__ import annotations

import ast
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flor_dagster.parsing import parse_python, source_lines


def test_threads_that_parse_at_once_get_the_trees_of_their_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [
        f"x = {'(' * n}{n}{')' * n}\n" + "def f(a):\n    return [b for b in a if b]\n" * n for n in range(40)
    ]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            trees = list(pool.map(parse_python, sources * 3))
    finally:
        sys.setswitchinterval(before)
    assert [ast.dump(tree) for tree in trees] == [ast.dump(ast.parse(source)) for source in sources] * 3


def test_an_expression_is_parsed_as_one_and_bad_source_is_a_syntax_error() -> None:
    assert isinstance(parse_python("a + 1", mode="eval"), ast.Expression)
    with pytest.raises(SyntaxError) as caught:
        parse_python("a +", "there.py")
    assert (caught.value.filename, caught.value.lineno) == ("there.py", 1)


def test_lines_are_counted_as_python_counts_them() -> None:
    odd = 'x = 1\n\f\ny = "a\u2028b\x85c\x1cd\ve"\r\nz = 2'
    assert source_lines(odd) == ["x = 1", "\f", 'y = "a\u2028b\x85c\x1cd\ve"', "z = 2"]
    assert "".join(source_lines(odd, keepends=True)) == odd
    assert [node.lineno for node in parse_python(odd).body] == [1, 3, 4]
    assert source_lines("") == []
    assert source_lines("\n\nx") == ["", "", "x"]


def test_no_source_is_split_in_another_way() -> None:
    """What else is split are texts of the system, of git, and of programs that wrote them line by line."""
    others = {
        "recording/kernels.py", "recording/environment.py", "replay/resources.py", "replay/inputs.py", "replay/locked.py",
        "replay/executing.py", "replay/stuck.py", "versions/clone.py", "versions/repository.py", "versions/lineage.py",
        "versions/command.py", "versions/archive.py", "showing.py",
    }  # fmt: skip
    package = Path(__file__).parents[1] / "flor_dagster"
    found = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).as_posix() not in others
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr == "splitlines"
        and not ast.unparse(node.value).startswith("ast.unparse(")
        and not ast.unparse(node.value).endswith(".encode()")
    ]
    assert found == []
