"""The old file stays as it is, byte for byte, but for the added lines."""

from __future__ import annotations

import ast

import pytest

from flor_dagster.propagation import find_statements, propagate

NEW = "for i in range(3):\n    x = f(i)\n    y = g(x)\n    flor.log('Q', y)\n    h(y)\n"
OLD = "for i in range(3):\n    x = f(i)\n    y = g(x)\n    h(y)\n"
ADDED = "    flor.log('Q', y)\n"


def ask(old: str, new: str = NEW):  # type: ignore[no-untyped-def]
    return propagate(new, old, [s.lines[0] for s in find_statements(new) if s.name == "Q"])


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        (OLD, NEW),
        (OLD.replace("\n", "\r\n"), NEW.replace("\n", "\r\n")),
        (OLD.replace("    ", "\t"), NEW.replace("    ", "\t")),
        ("\ufeff" + OLD, "\ufeff" + NEW),
        ("# -*- coding: latin-1 -*-\n" + OLD, "# -*- coding: latin-1 -*-\n" + NEW),
        ("\f\n" + OLD, "\f\n" + NEW),
        ("text = 'ä\u2028ö'\n" + OLD, "text = 'ä\u2028ö'\n" + NEW),
        (OLD.rstrip("\n"), NEW.rstrip("\n")),
        (OLD.replace("    h(y)", "    # after\n    h(y)"), NEW.replace("    h(y)", "    # after\n    h(y)")),
        (OLD.replace("g(x)", "g(  x )  # why"), NEW.replace("g(x)", "g(  x )  # why")),
    ],
    ids=[
        "plain",
        "crlf",
        "tabs",
        "bom",
        "cookie",
        "form feed",
        "odd separators",
        "no newline",
        "comment",
        "layout",
    ],
)
def test_everything_else_stays(old: str, expected: str) -> None:
    result = ask(old)
    assert result.source == expected
    assert not result.rewritten


def test_a_statement_at_the_very_end_of_a_file_without_a_newline() -> None:
    result = ask("x = f()\ny = g(x)", "x = f()\ny = g(x)\nflor.log('Q', y)\n")
    assert result.source == "x = f()\ny = g(x)\nflor.log('Q', y)"


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        (
            "for i in range(3):\n    x = f(i); y = g(x); h(y)  # all\n",
            "for i in range(3):\n    x = f(i)\n    y = g(x)\n    flor.log('Q', y)\n    h(y)  # all\n",
        ),
        (
            "for i in range(3): x = f(i); y = g(x); h(y)  # all\n",
            "for i in range(3):\n    x = f(i)\n    y = g(x)\n    flor.log('Q', y)\n    h(y)  # all\n",
        ),
    ],
    ids=["semicolons", "one-line suite"],
)
def test_lines_that_hold_several_statements_are_opened(old: str, expected: str) -> None:
    result = ask(old)
    assert result.source == expected
    assert result.rewritten
    assert ast.dump(ast.parse(result.source.replace(ADDED, ""))) == ast.dump(ast.parse(old))


def test_text_inside_strings_is_not_indented() -> None:
    new = "def f(a):\n    b = g(a)\n    flor.log('Q', str('''x\n  y''', b))\n    return b\n"
    old = "class C:\n    def f(self, a):\n        b = g(a)\n        return b\n"
    result = ask(old, new)
    assert "        flor.log('Q', str('''x\n  y''', b))\n" in result.source


def test_a_statement_stays_behind_documentation_and_future_imports() -> None:
    new = '"""Doc."""\nfrom __future__ import annotations\nflor.log("Q", 1)\nx = f()\ny = g(x)\n'
    old = '"""Doc."""\nfrom __future__ import annotations\nx = f()\ny = g(x)\n'
    assert ask(old, new).source == new


def test_old_code_that_draws_warnings_draws_none_here(recwarn: pytest.WarningsRecorder) -> None:
    assert ask(OLD + "if x is 'a\\d':\n    pass\n").placements
    assert not list(recwarn)


def test_a_text_that_would_not_compile_is_never_an_answer() -> None:
    new = "def f(a):\n    b = g(a)\n    flor.log('Q', total)\n    h(b)\n    return b\ntotal = 0\n"
    old = "def f(a):\n    b = g(a)\n    h(b)\n    global total\n    total = 1\n    return b\ntotal = 0\n"
    result = ask(old, new)
    compile(result.source, "result", "exec")
