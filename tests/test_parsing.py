"""Threads that parse at once get their trees."""

from __future__ import annotations

import ast
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from flor_dagster.parsing import parse_python


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
