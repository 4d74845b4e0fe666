"""Definite assignment and reaching definitions follow Python's rules."""

from __future__ import annotations

import ast
import textwrap

import pytest

from flor_dagster.propagation.definitions import Definitions
from flor_dagster.propagation.names import free_names
from flor_dagster.propagation.tree import Interner, build

CASES = [
    ("straight", "x = 1\nHERE", True),
    ("branch", "if a:\n    x = 1\nHERE", False),
    ("both branches", "if a:\n    x = 1\nelse:\n    x = 2\nHERE", True),
    (
        "branch that leaves",
        "for i in y:\n    if a:\n        continue\n    else:\n        x = 1\n    HERE",
        True,
    ),
    ("loop body", "for i in y:\n    x = 1\nHERE", False),
    ("loop target", "for x in y:\n    HERE", True),
    ("after a loop's target", "for x in y:\n    pass\nHERE", False),
    ("for-else", "for i in y:\n    if i:\n        x = 1\n        break\nelse:\n    x = 2\nHERE", True),
    ("endless loop", "while True:\n    x = 1\n    if x:\n        break\nHERE", True),
    ("with", "with f() as x:\n    HERE", True),
    ("suppressing with", "with suppress(E):\n    x = f()\nHERE", False),
    ("try", "try:\n    x = f()\nexcept E:\n    pass\nHERE", False),
    ("try that raises on", "try:\n    x = f()\nexcept E:\n    raise\nHERE", True),
    ("try-else", "try:\n    f()\nexcept E:\n    x = 1\nelse:\n    x = 2\nHERE", True),
    ("finally", "try:\n    f()\nfinally:\n    x = 1\nHERE", True),
    ("handler's name", "try:\n    f()\nexcept E as x:\n    HERE", True),
    ("handler's name after", "try:\n    f()\nexcept E as x:\n    pass\nHERE", False),
    ("match", "match v:\n    case [x]:\n        HERE", True),
    ("match without a default", "match v:\n    case 1:\n        x = 1\nHERE", False),
    ("match with a default", "match v:\n    case 1:\n        x = 1\n    case _:\n        x = 2\nHERE", True),
    ("del", "x = 1\ndel x\nHERE", False),
    ("walrus", "if (x := f()):\n    pass\nHERE", True),
    ("comprehension variable", "y = [x for x in z]\nHERE", False),
    ("walrus in a comprehension", "y = [(x := i) for i in z]\nHERE", True),
    ("import", "import x.y\nHERE", True),
    ("import as", "import y as x\nHERE", True),
    ("parameter", "def f(x):\n    HERE", True),
    ("keyword-only parameter", "def f(*, x=1):\n    HERE", True),
    ("local later", "x = 1\ndef f():\n    HERE\n    x = 2", False),
    ("module name", "x = 1\ndef f():\n    HERE", True),
    ("global", "def g():\n    global x\n    x = 1\ndef f():\n    HERE", True),
    ("enclosing function", "def g():\n    x = 1\n    def f():\n        HERE", True),
    ("class body is no scope for methods", "class C:\n    x = 1\n    def f(self):\n        HERE", False),
    ("class body", "class C:\n    x = 1\n    HERE", True),
    ("declared only", "x: int\nHERE", False),
    ("proved by use", "if a:\n    x = 1\nuse(x)\nHERE", True),
    ("not proved by a use that may not run", "if a:\n    x = 1\nb and use(x)\nHERE", False),
    ("async for", "async def f():\n    async for x in y:\n        HERE", True),
    ("after return", "def f():\n    x = 1\n    return x\n    HERE", False),
]


@pytest.mark.parametrize(("what", "source", "definite"), CASES, ids=[c[0] for c in CASES])
def test_whether_a_name_is_certainly_assigned(what: str, source: str, definite: bool) -> None:
    module = ast.parse(textwrap.dedent(source))
    tree = build(source, Interner(), module=module)
    here = next(n for n in tree.nodes if isinstance(n.syntax, ast.Expr) and ast.unparse(n.syntax) == "HERE")
    assert here.block is not None
    found = Definitions(tree).reach(here.block, here.index, "x")
    assert (found.bound and found.definite) is definite


def test_definitions_of_the_iteration_before_reach_the_start_of_a_loop() -> None:
    source = "x = 1\nfor i in y:\n    HERE\n    x = 2\n"
    tree = build(source, Interner(), module=ast.parse(source))
    here = next(n for n in tree.nodes if n.kind == "expr")
    assert here.block is not None
    found = Definitions(tree).reach(here.block, here.index, "x")
    assert {tree.nodes[d].line for d in found.definitions} == {1, 4}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("f(a, [b for b in c if b > d])", ["f", "a", "c", "d"]),
        ("lambda a, b=c: a + b + d", ["c", "d"]),
        ("{k: v for k, v in xs.items()}", ["xs"]),
        ("(n := f(m)) + n", ["f", "m"]),
        ("for i in xs:\n    g(i, y)", ["xs", "g", "y"]),
        ("f'{a:{b}}'", ["a", "b"]),
        ("[x for y in ys for x in y]", ["ys"]),
    ],
)
def test_free_names(source: str, names: list[str]) -> None:
    assert free_names([ast.parse(source)]) == names
