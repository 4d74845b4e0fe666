"""A statement runs in the same named loops as in the newest version, or it is refused."""

from __future__ import annotations

import ast
import textwrap
from typing import Any

import pytest

from flor_dagster.propagation import find_statements, propagate
from flor_dagster.propagation.nesting import Nest, Nesting
from flor_dagster.propagation.statements import aliases
from flor_dagster.propagation.tree import Interner, build

NESTS = [
    ("one", "for e in flor.loop('epoch', r):\n    HERE", ("epoch",), True),
    ("two", "for e in flor.loop('epoch', r):\n    for s in flor.loop('step', d):\n        HERE", ("epoch", "step"), True),
    ("unnamed between", "for e in flor.loop('epoch', r):\n    for s in d:\n        HERE", ("epoch",), True),
    ("enumerate", "for i, e in enumerate(flor.loop('epoch', r)):\n    HERE", ("epoch",), True),
    ("async", "async def f():\n    async for e in flor.loop('epoch', r):\n        HERE\nf()", ("epoch",), True),
    ("else runs once", "for e in flor.loop('epoch', r):\n    pass\nelse:\n    HERE", (), True),
    ("one caller", "def f():\n    HERE\nfor e in flor.loop('epoch', r):\n    f()", ("epoch",), True),
    ("two callers alike", "def f():\n    HERE\nfor e in flor.loop('epoch', r):\n    f()\n    f()", ("epoch",), True),
    ("two callers apart", "def f():\n    HERE\nf()\nfor e in flor.loop('epoch', r):\n    f()", (), False),
    ("no caller", "def f():\n    for e in flor.loop('epoch', r):\n        HERE", ("epoch",), False),
    ("handed on", "def f():\n    HERE\nfor e in flor.loop('epoch', r):\n    run(f)\n    f()", (), False),
    ("recursion", "def f():\n    HERE\n    f()\nfor e in flor.loop('epoch', r):\n    f()", (), False),
    ("method", "class T:\n    def f(self):\n        HERE\nfor e in flor.loop('epoch', r):\n    t.f()", ("epoch",), True),
]  # fmt: skip


@pytest.mark.parametrize(("what", "source", "loops", "complete"), NESTS, ids=[n[0] for n in NESTS])
def test_named_loops_around_a_place(what: str, source: str, loops: tuple[str, ...], complete: bool) -> None:
    source = "import flor_dagster as flor\n" + source + "\n"
    module = ast.parse(source)
    tree = build(source, Interner(), module=module)
    here = next(n for n in tree.nodes if isinstance(n.syntax, ast.Expr) and ast.unparse(n.syntax) == "HERE")
    assert here.block is not None
    assert Nesting(tree, aliases(module)).of(here.block) == Nest(loops, complete)


NEW = """
import flor_dagster as flor
for epoch in flor.loop("epoch", range(3)):
    model = start(epoch)
    for step in flor.loop("step", data):
        loss = fit(model, step)
        use(loss)
        flor.log("Q", loss)
    close(model)
"""


def ask(old: str):  # type: ignore[no-untyped-def]
    new, old = textwrap.dedent(NEW).lstrip("\n"), textwrap.dedent(old).lstrip("\n")
    return propagate(new, old, [s.lines[0] for s in find_statements(new) if s.name == "Q"])


def test_a_loop_that_got_its_name_later_is_still_the_loop() -> None:
    result = ask(
        NEW.replace('        flor.log("Q", loss)\n', "").replace('flor.loop("epoch", range(3))', "range(3)")
    )
    assert result.source == NEW.lstrip("\n").replace('flor.loop("epoch", range(3))', "range(3)")


def test_a_place_in_other_named_loops_is_refused() -> None:
    old = """
    import flor_dagster as flor
    for epoch in flor.loop("epoch", range(3)):
        close(epoch)
    model = start(0)
    for step in flor.loop("step", data):
        loss = fit(model, step)
        use(loss)
    """
    (refusal,) = ask(old).refusals
    assert refusal.kind == "no-loop"
    assert refusal.missing == "epoch > step"
    assert "belongs in epoch > step" in refusal.sentence
    assert "is in step" in refusal.sentence


def test_the_loop_of_the_same_name_wins_over_one_that_looks_alike() -> None:
    old = """
    import flor_dagster as flor
    for epoch in flor.loop("epoch", range(3)):
        model = start(epoch)
        for step in flor.loop("warmup", data):
            loss = fit(model, step)
            use(loss)
        for step in flor.loop("step", data):
            loss = fit(model, step)
            use(loss)
        close(model)
    """
    assert [p.lines for p in ask(old).placements] == [(10, 10)]


def test_a_large_call_graph_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [f"    f{m}()" for m in range(14)]
    functions = [f"def f{n}():\n" + "\n".join(c for c in calls if c != f"    f{n}()") for n in range(14)]
    text = "import flor\n" + "\n".join(functions) + "\nfor e in flor.loop('epoch', range(3)):\n    f1()\n"
    module = ast.parse(text)
    tree = build(text, Interner(), module=module)
    looked: list[int] = []
    around = Nesting._around

    def counted(*arguments: Any) -> Nest:
        looked.append(1)
        assert len(looked) < 1000  # every way through these calls would be millions
        return around(*arguments)

    monkeypatch.setattr(Nesting, "_around", counted)
    nesting = Nesting(tree, aliases(module))
    function = next(node for node in tree.nodes if node.name == "f1")
    assert not nesting.of(function.blocks[0]).complete
