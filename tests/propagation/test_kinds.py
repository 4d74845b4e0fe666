"""Every kind of place that Python has for a statement is a place; every form of the statement keeps its meaning."""

from __future__ import annotations

import ast
import re
import textwrap

import pytest

from flor_dagster.propagation import Propagated, find_statements, propagate

HEAD = "import flor_dagster as flor\n"


def ask(new: str, old: str, *names: str) -> Propagated:
    lines = sorted({s.lines[0] for s in find_statements(new) if s.name in (names or ("Q",))})
    return propagate(new, old, lines)


# Scripts with their statements; the old version is the same script without the lines of the statement.
PLACES = {
    "module level": "x = f(1)\nflor.log('Q', x)\nuse(x)\n",
    "first line of a script": "flor.log('Q', 1)\nx = f(1)\nuse(x)\n",
    "last line of a script": "x = f(1)\nuse(x)\nflor.log('Q', x)\n",
    "function": "def go(a):\n    b = f(a)\n    flor.log('Q', b)\n    return b\ngo(1)\n",
    "first line of a function": "def go(a):\n    flor.log('Q', a)\n    b = f(a)\n    return b\n",
    "behind a documentation string": 'def go(a):\n    """Go."""\n    flor.log(\'Q\', a)\n    return f(a)\n',
    "method": "class T:\n    def go(self, a):\n        self.b = f(a)\n        flor.log('Q', self.b)\n        return a\n",
    "static method": "class T:\n    @staticmethod\n    def go(a):\n        b = f(a)\n        flor.log('Q', b)\n        return b\n",
    "nested function": "def out(a):\n    k = f(a)\n    def go(b):\n        c = b + k\n        flor.log('Q', c)\n        return c\n    return go\n",
    "class body": "class C:\n    a = f(1)\n    flor.log('Q', a)\n    b = f(2)\n",
    "async function": "async def go(a):\n    b = await f(a)\n    flor.log('Q', b)\n    return b\n",
    "async for": "async def go(s):\n    async for b in s:\n        c = f(b)\n        flor.log('Q', c)\n        use(c)\n",
    "async with": "async def go(s):\n    async with s as b:\n        c = f(b)\n        flor.log('Q', c)\n        use(c)\n",
    "generator": "def go(xs):\n    for x in xs:\n        y = f(x)\n        flor.log('Q', y)\n        yield y\n",
    "for": "for i in range(3):\n    x = f(i)\n    flor.log('Q', x)\n    use(x)\n",
    "for-else": "for i in range(3):\n    use(i)\nelse:\n    x = f(1)\n    flor.log('Q', x)\n    use(x)\n",
    "while": "x = f(1)\nwhile x:\n    x = g(x)\n    flor.log('Q', x)\n    use(x)\n",
    "nested loops": "for i in range(3):\n    for j in range(2):\n        x = f(i, j)\n        flor.log('Q', x)\n    use(i)\n",
    "after the inner loop": "for i in range(3):\n    for j in range(2):\n        x = f(i, j)\n    y = g(i)\n    flor.log('Q', y)\n",
    "if": "x = f(1)\nif x:\n    y = g(x)\n    flor.log('Q', y)\nelse:\n    y = 0\n",
    "elif": "x = f(1)\nif x:\n    y = g(x)\nelif h(x):\n    y = h(x)\n    flor.log('Q', y)\nelse:\n    y = 0\n",
    "else": "x = f(1)\nif x:\n    y = g(x)\nelse:\n    y = h(x)\n    flor.log('Q', y)\n",
    "try": "try:\n    x = f(1)\n    flor.log('Q', x)\nexcept E:\n    raise\n",
    "except": "try:\n    x = f(1)\nexcept E as e:\n    y = g(e)\n    flor.log('Q', y)\n    raise\n",
    "try-else": "try:\n    x = f(1)\nexcept E:\n    raise\nelse:\n    y = g(x)\n    flor.log('Q', y)\n",
    "finally": "try:\n    x = f(1)\nfinally:\n    y = g(1)\n    flor.log('Q', y)\n    use(y)\n",
    "with": "with f(1) as x:\n    y = g(x)\n    flor.log('Q', y)\n    use(y)\n",
    "match": "def go(v):\n    match v:\n        case {'a': a, **rest}:\n            b = f(a, rest)\n            flor.log('Q', b)\n        case [int() as c, _]:\n            b = c\n        case _:\n            b = 0\n    return b\n",
    "main guard": "def go():\n    return 1\nif __name__ == '__main__':\n    x = go()\n    flor.log('Q', x)\n    use(x)\n",
    "decorated function": "@wraps(f)\n@torch.no_grad()\ndef go(a):\n    b = f(a)\n    flor.log('Q', b)\n    return b\n",
    "call over several lines": "x = f(1)\nflor.log(\n    'Q',\n    [\n        x,  # first\n        2,\n    ],\n)\nuse(x)\n",
    "a text over several lines": "x = f(1)\nflor.log('Q', f'''{x}\n  indented\nnot''')\nuse(x)\n",
    "continued with a backslash": "x = f(1)\nflor.log('Q', \\\n    x)\nuse(x)\n",
    "keywords": "x = f(1)\nflor.log(name='Q', value=x)\nuse(x)\n",
    "once for each item": "xs = f(1)\n[flor.log('Q', x) for x in xs]\nuse(xs)\n",
    "behind a condition": "x = f(1)\nx and flor.log('Q', x)\nuse(x)\n",
    "with a comment behind": "x = f(1)\nflor.log('Q', x)  # why\nuse(x)\n",
    "guard": "for i in range(3):\n    x = f(i)\n    if i % 100 == 0:\n        flor.log('Q', x)\n    use(x)\n",
    "guard on one line": "for i in range(3):\n    x = f(i)\n    if i % 100 == 0: flor.log('Q', x)\n    use(x)\n",
    "guard in a guard": "for i in range(3):\n    x = f(i)\n    if i % 100 == 0:\n        if x:\n            flor.log('Q', x)\n    use(x)\n",
    "guard with an else": "for i in range(3):\n    x = f(i)\n    if i:\n        flor.log('Q', x)\n    else:\n        flor.log('Q', 0)\n    use(x)\n",
    "guard that the version has elsewhere": "for i in range(3):\n    if main:\n        show(i)\n    x = f(i)\n    if main:\n        flor.log('Q', x)\n    use(x)\nmain = 1\n",
    "no_grad": "import torch\nfor i in range(3):\n    x = f(i)\n    with torch.no_grad():\n        flor.log('Q', x)\n    use(x)\n",
    "small loop": "for i in range(3):\n    x = f(i)\n    for n, p in x.items():\n        flor.log('Q', {n: p})\n    use(x)\n",
    "try around it": "for i in range(3):\n    x = f(i)\n    try:\n        flor.log('Q', x[0])\n    except IndexError:\n        pass\n    use(x)\n",
    "two in one block": "for i in range(3):\n    x = f(i)\n    if i % 100 == 0:\n        flor.log('Q', x)\n        flor.log('Q', i)\n    use(x)\n",
}  # fmt: skip


def taken_out(source: str) -> str:
    """The script without its statements and the blocks that hold nothing else."""
    module = ast.parse(source)
    statements = find_statements(source)

    def is_new(node: ast.stmt) -> bool:
        inner = [n for n in ast.walk(node) if isinstance(n, ast.stmt) and not hasattr(n, "body")]
        at = {line for s in statements for line in range(s.lines[0], s.lines[1] + 1)}
        return all(isinstance(n, ast.Pass) or n.lineno in at for n in inner)

    gone: set[int] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.stmt) and is_new(node):
            gone.update(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = source.split("\n")
    return "\n".join(text for n, text in enumerate(lines, 1) if n not in gone)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", ["none", "names", "layout", "neighbours"])
def test_every_place_is_found(place: str, change: str) -> None:
    names = "E = ValueError\n"
    new = HEAD + names + PLACES[place]
    old = taken_out(new)
    expected = new
    if change == "names":
        # What a comprehension binds is no name of the script: it stays as it is written.
        for name in ("y", "b", "c") if place == "once for each item" else ("x", "y", "b", "c"):
            old, expected = (_renamed(text, name, f"{name}{name}") for text in (old, expected))
    elif change == "layout":
        old, expected = (ast.unparse(ast.parse(text)) for text in (old, expected))
    elif change == "neighbours":
        old, expected = (text.replace("use(", "keep(") for text in (old, expected))
    result = ask(new, old)
    assert [r.sentence for r in result.refusals] == []
    assert ast.dump(ast.parse(result.source)) == ast.dump(ast.parse(expected))
    if change in ("none", "neighbours"):
        assert result.source == expected


def _renamed(text: str, name: str, other: str) -> str:
    module = ast.parse(text)
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and node.id == name:
            node.id = other
        elif isinstance(node, ast.arg) and node.arg == name:
            node.arg = other
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name == name:
            node.name = other
    return ast.unparse(module)


@pytest.mark.parametrize(
    ("head", "call"),
    [
        ("from flor_dagster import log as record", "record"),
        ("from flor_dagster import log", "log"),
        ("import flor_dagster", "flor_dagster.log"),
        ("import flor_dagster as f", "f.log"),
        ("import os, flor_dagster as flor", "flor.log"),
    ],
)
def test_every_spelling_works_where_the_old_version_does_not_know_us(head: str, call: str) -> None:
    result = ask(f"{head}\nx = g(1)\n{call}('Q', x)\nuse(x)\n", "import sys\nx = g(1)\nuse(x)\n")
    own = head.replace("os, ", "")
    assert result.source == f"import sys\n{own}\nx = g(1)\n{call}('Q', x)\nuse(x)\n"


def test_every_spelling_becomes_that_of_the_old_version() -> None:
    result = ask(
        HEAD + "x = g(1)\nflor.log('Q', x)\nuse(x)\n", "import flor_dagster as fd\nx = g(1)\nuse(x)\n"
    )
    assert result.source == "import flor_dagster as fd\nx = g(1)\nfd.log('Q', x)\nuse(x)\n"


# (form, new lines, old lines, expected lines) inside `for i in range(3):`
VALUES = [
    ("assigned", "x = flor.log('Q', f(i))", "x = f(i)", "x = f(i)\nflor.log('Q', x)"),
    ("assigned under another name", "x = flor.log('Q', f(i))", "z = f(i)", "z = f(i)\nflor.log('Q', z)"),
    ("assigned with a type", "x: int = flor.log('Q', f(i))", "x: int = f(i)", "x: int = f(i)\nflor.log('Q', x)"),
    ("assigned twice", "x = y = flor.log('Q', f(i))", "x = y = f(i)", "x = y = f(i)\nflor.log('Q', x)"),
    ("assigned by keyword", "x = flor.log(name='Q', value=f(i))", "x = f(i)", "x = f(i)\nflor.log(name='Q', value=x)"),
    ("within a pure call", "t = max(flor.log('Q', len(d)), 1)", "t = max(len(d), 1)", "flor.log('Q', len(d))\nt = max(len(d), 1)"),
    ("added up", "t += flor.log('Q', d[i])", "t += d[i]", "flor.log('Q', d[i])\nt += d[i]"),
    ("in a condition", "if flor.log('Q', d[i]) > 3:\n    use(i)", "if d[i] > 3:\n    use(i)", "flor.log('Q', d[i])\nif d[i] > 3:\n    use(i)"),
    ("gone through", "for k in flor.log('Q', d[i]):\n    use(k)", "for k in d[i]:\n    use(k)", "flor.log('Q', d[i])\nfor k in d[i]:\n    use(k)"),
    ("unpacked, pure", "a, b = flor.log('Q', d[i])", "a, b = d[i]", "flor.log('Q', d[i])\na, b = d[i]"),
]  # fmt: skip
LOOP = HEAD + "d = load()\nt = 0\nfor i in range(3):\n{}\n    use(i)\nuse(t, x)\n"


def in_loop(text: str) -> str:
    return LOOP.format(textwrap.indent(text, "    "))


@pytest.mark.parametrize(("form", "new", "old", "expected"), VALUES, ids=[v[0] for v in VALUES])
def test_a_value_that_is_used_is_logged_and_never_computed_twice(
    form: str, new: str, old: str, expected: str
) -> None:
    result = ask(in_loop(new), in_loop(old))
    assert [r.sentence for r in result.refusals] == []
    assert result.source == in_loop(expected)


RETURNED = [
    ("def go(a):\n    b = f(a)\n    return flor.log('Q', b)\n", "    flor.log('Q', b)\n"),
    ("def go(a):\n    b = f(a)\n    return flor.log('Q', b.mean())\n", "    flor.log('Q', b.mean())\n"),
]


@pytest.mark.parametrize(("new", "line"), RETURNED)
def test_a_returned_value_is_logged_before_the_return(new: str, line: str) -> None:
    value = line.strip()[len("flor.log('Q', ") : -1]
    old = new.replace(line.strip(), value)
    result = ask(HEAD + new, HEAD + old)
    assert result.source == HEAD + old.replace("    return", line + "    return")


REFUSED = [
    ("an unknown call that is used", "print(flor.log('Q', f(i)))", "print(f(i))"),
    ("an unknown call that is added", "t += flor.log('Q', f(i))", "t += f(i)"),
    ("behind code that may matter", "t = g(f(i), flor.log('Q', d[i]))", "t = g(f(i), d[i])"),
    ("an unknown call that is unpacked", "a, b = flor.log('Q', f(i))", "a, b = f(i)"),
    ("in a lambda", "t = lambda v: flor.log('Q', v)", "t = lambda v: v"),
    ("in a comprehension", "t = [flor.log('Q', v) for v in d]", "t = [v for v in d]"),
    ("behind `and`", "t = i and flor.log('Q', d[i])", "t = i and d[i]"),
    ("in the test of a while", "while flor.log('Q', d[i]):\n    d = g(d)", "while d[i]:\n    d = g(d)"),
    ("a call that the old version makes itself", "flor.log('Q', f(i))", "f(i)"),
    ("an assignment that the old version makes itself", "z = flor.log('Q', f(i))", "f(i)"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "new", "old"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_would_run_twice_or_never_is_refused(form: str, new: str, old: str) -> None:
    head = "def f(v):\n    return step(v)\n"
    result = ask(
        in_loop(new).replace("d = load", head + "d = load"),
        in_loop(old).replace("d = load", head + "d = load"),
    )
    assert result.source == in_loop(old).replace("d = load", head + "d = load")
    assert len(result.refusals) == 1


def test_an_elif_has_no_place_before_it() -> None:
    new = HEAD + "x = f(1)\nif x:\n    use(x)\nelif flor.log('Q', x + 1):\n    use(2)\n"
    (refusal,) = ask(new, new.replace("flor.log('Q', x + 1)", "x + 1")).refusals
    assert "elif" in refusal.sentence


def test_what_a_statement_logs_on_its_way_is_there_already_where_a_line_of_its_own_logs_it() -> None:
    new = HEAD + "x = flor.log('Q', f(1))\nuse(x)\n"
    old = HEAD + "x = f(1)\nflor.log('Q', x)\nuse(x)\n"
    assert [p.status for p in ask(new, old).placements] == ["already-there"]
    assert [p.status for p in ask(old, new).placements] == ["already-there"]
    assert ask(new, old).source == old


def test_the_same_name_elsewhere_is_reported() -> None:
    new = HEAD + "for i in range(3):\n    x = f(i)\n    flor.log('Q', x)\n    use(x)\nend(x)\n"
    old = HEAD + "for i in range(3):\n    x = f(i)\n    use(x)\nflor.log('Q', x)\nend(x)\n"
    (placement,) = ask(new, old).placements
    assert placement.status == "placed"
    assert placement.elsewhere == (6,)
    assert "flor.log('Q', x)" in ask(new, old).source.splitlines()[5]


SEVERAL = [
    ("x = f(1)\nflor.log('Q', x)\nflor.log('R', x)\nuse(x)\n", "x = f(1)\nuse(x)\n"),
    ("a = f(1)\nb = g(a)\nc = h(a)\nflor.log('Q', c)\nflor.log('R', b)\nuse(a)\n", "a = f(1)\nb = g(a)\nkeep(a)\nc = h(a)\nuse(a)\n"),
    ("a = f(1)\nb = g(a)\nc = h(a)\nflor.log('Q', b)\nflor.log('R', c)\nuse(a)\n", "a = f(1)\nc = h(a)\nkeep(a)\nb = g(a)\nuse(a)\n"),
    ("for i in range(3):\n    x = f(i)\n    flor.log('Q', x)\n\n    # later\n    flor.log('R', i)\n    use(x)\n", "for i in range(3):\n    x = f(i)\n\n    # later\n    use(x)\n"),
    ("for i in range(3):\n    for j in d:\n        x = f(j)\n        flor.log('Q', x)\n    flor.log('R', i)\nuse(1)\nd = 1\n", "for i in range(3):\n    for j in d:\n        x = f(j)\nuse(1)\nd = 1\n"),
]  # fmt: skip


@pytest.mark.parametrize(("new", "old"), SEVERAL)
def test_several_statements_keep_their_order(new: str, old: str) -> None:
    result = ask(HEAD + new, HEAD + old, "Q", "R")
    assert [r.sentence for r in result.refusals] == []
    assert [s.name for s in find_statements(result.source)] == ["Q", "R"]


CHAIN_NEW = """\
import flor_dagster as flor
def train(xs):
    total = 0
    for x in xs:
        total += x
        if total > 3:
            flor.log("a", total)
            # why
            flor.log("b",
                     total * 2)
        elif total > 9:
            flor.log("d", x)
        else:
            flor.log("e", x); flor.log("f", -x)
    return total
"""
CHAIN_OLD = CHAIN_NEW[: CHAIN_NEW.index("        if total > 3")] + "    return total\n"


@pytest.mark.parametrize("asked", [[7], [9], [12], [14], [7, 12], [7, 9, 12, 14]])
def test_a_new_block_travels_with_what_is_asked_of_it_and_leaves_the_rest_at_home(asked: list[int]) -> None:
    result = propagate(CHAIN_NEW, CHAIN_OLD, asked)
    assert not result.refusals
    by_line = {7: {"a"}, 9: {"b"}, 12: {"d"}, 14: {"e", "f"}}
    wanted = set().union(*(by_line[line] for line in asked))
    logged = set(re.findall(r'flor\.log\("(\w)"', result.source))
    assert logged == wanted
    assert "elif total > 9" in result.source
    compile(result.source, "old", "exec")
    added = set(result.added)
    kept = [line for n, line in enumerate(result.source.splitlines(True), 1) if n not in added]
    assert "".join(kept) == CHAIN_OLD


def test_one_statement_of_a_loop_that_holds_only_statements_can_be_asked() -> None:
    new = CHAIN_OLD.replace(
        "    return total",
        '    for x in xs:\n        flor.log("p", x)\n        flor.log("q", x)\n    return total',
    )
    for line, name in ((7, "p"), (8, "q")):
        result = propagate(new, CHAIN_OLD, [line])
        other = "q" if name == "p" else "p"
        assert not result.refusals
        assert f'for x_logged in xs:\n        flor.log("{name}", x_logged)\n' in result.source
        assert f'flor.log("{other}"' not in result.source
