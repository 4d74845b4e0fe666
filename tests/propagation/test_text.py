"""The old file stays as it is, byte for byte, but for the added lines."""

from __future__ import annotations

import ast

import pytest

from flor_dagster.propagation import find_statements, propagate
from flor_dagster.propagation.inserting import split_lines

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


HARD = {
    "mixed line ends": OLD.replace("x = f(i)\n", "x = f(i)\r\n"),
    "old Macintosh": OLD.replace("\n", "\r"),
    "tabs inside spaces": "if 1:\n  for i in range(3):\n  \tx = f(i)\n  \ty = g(x)\n  \th(y)\n",
    "one space": OLD.replace("    ", " "),
    "latin text": "# -*- coding: latin-1 -*-\nname = 'Gr\u00fc\u00dfe'  # \u00e9\n" + OLD,
    "wide text": "name = '\u6570\u636e \U0001f600'; other = 1\n" + OLD.replace("g(x)", "g(x)  # \U0001f600"),
    "form feeds": "import os\n\f\n" + OLD + "\f\nend()\n",
    "a form feed before a statement": OLD.replace("    y = g(x)", "\f    y = g(x)"),
    "continued lines": OLD.replace("g(x)", "g( \\\n  x)"),
    "a very long line": OLD.replace("g(x)", "g(x" + ", 1" * 20_000 + ")"),
    "blank lines with spaces": OLD.replace("    y =", "   \n\t\n    y ="),
    "comments at other depths": OLD.replace("    y =", "# out\n        # in\n    y ="),
    "a text over lines": OLD.replace("g(x)", "g(x, '''a\nb\n  c''')"),
    "no newline after a comment": OLD + "# the end",
    "many statements on a line": OLD.replace("h(y)", "h(y); k(1); k(2)"),
    "a line that ends in a semicolon": OLD.replace("g(x)", "g(x);"),
}


@pytest.mark.parametrize("kind", HARD)
def test_hard_texts_lose_nothing(kind: str) -> None:
    old = HARD[kind]
    result = ask(old)
    assert [r.sentence for r in result.refusals] == []
    lines = split_lines(result.source)
    assert "".join(line for n, line in enumerate(lines, 1) if n not in result.added) == old
    without = ast.parse(result.source)
    for node in ast.walk(without):
        if isinstance(getattr(node, "body", None), list):
            node.body = [s for s in node.body if "flor.log" not in ast.unparse(s) or hasattr(s, "body")]
    assert ast.dump(without) == ast.dump(ast.parse(old))
    (added,) = result.added
    before = lines[added - 2]
    assert lines[added - 1].endswith(before[len(before.rstrip("\r\n")) :]) or kind == "mixed line ends"


BROKEN = {
    "Python 2": ("print 'loss', loss\n", "line 5"),
    "old except": ("try:\n    f()\nexcept E, e:\n    pass\n", "line 7"),
    "a conflict": ("<<<<<<< ours\nx = 1\n=======\nx = 2\n>>>>>>> theirs\n", "line 5"),
    "torn": ("x = (1,\n", "line 5"),
    "null bytes": ("x = 1\0\n", "null bytes"),
    "mixed indentation": ("if x:\n        y = 1\n\tz = 2\n", "line 7"),
    "an unknown character": ("x = 1 \u00a7 2\n", "line 5"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_python_is_refused_with_the_line(kind: str) -> None:
    tail, where = BROKEN[kind]
    old = OLD + tail
    result = ask(old)
    assert result.source == old
    (refusal,) = result.refusals
    assert refusal.kind == "unsupported-syntax"
    assert where in refusal.sentence
    assert refusal.statement.name == "Q"


def test_an_empty_old_file_has_no_place() -> None:
    for old in ("", "\n", "# nothing\n", '"""Only text."""\n'):
        result = ask(old)
        assert result.source == old
        assert len(result.refusals) == 1


def test_very_deep_code_is_refused_and_no_crash() -> None:
    old = OLD + "x = " + "(" * 300 + "1" + ")" * 300 + "\n"
    result = ask(old)
    assert result.source == old
    assert result.refusals


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


def test_what_is_first_under_a_header_stays_above_the_blank_lines_below_it() -> None:
    new = 'import flor_dagster as flor\nfor x in xs:\n    if x:\n        flor.log("x", x)\n\n        # next\n        use(x)\n'
    old = new.replace('        flor.log("x", x)\n', "")
    assert propagate(new, old, [4]).source == new
