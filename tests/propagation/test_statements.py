"""Statements are found under every import form, with where they stand."""

from __future__ import annotations

import textwrap

import pytest

from flor_dagster.propagation import counterparts, find_statements


@pytest.mark.parametrize(
    ("head", "call"),
    [
        ("import flor_dagster as flor", "flor.log"),
        ("import flor_dagster as f", "f.log"),
        ("import flor_dagster", "flor_dagster.log"),
        ("from flor_dagster import log", "log"),
        ("from flor_dagster import log as record", "record"),
        ("import flordb as flor", "flor.log"),
        ("import flor", "flor.log"),
        ("", "flor.log"),
    ],
)
def test_every_import_form_counts(head: str, call: str) -> None:
    (found,) = find_statements(f"{head}\n{call}('loss', a +  b)\nmath.log('no', 1)\n")
    assert (found.name, found.expression, found.lines) == ("loss", "a + b", (2, 2))


def test_a_logarithm_is_no_statement() -> None:
    assert find_statements("import flor_dagster as flor\nimport math\nmath.log(2)\nlog('x', 1)\n") == ()


def test_where_a_statement_stands() -> None:
    source = textwrap.dedent("""
        import flor_dagster as flor
        class T:
            def fit(self):
                for e in flor.loop("epoch", range(3)):
                    for i, b in enumerate(flor.loop("step", data)):
                        with torch.no_grad():
                            x = flor.log("loss", b)
                        flor.log("loss", b)
                    else:
                        flor.log("loss", b)
                    flor.log(name="acc", value=e)
    """)
    found = find_statements(source)
    assert [(s.name, s.function, s.loops, s.ordinal) for s in found] == [
        ("loss", "T.fit", ("epoch", "step"), 0),
        ("loss", "T.fit", ("epoch", "step"), 1),
        ("loss", "T.fit", ("epoch",), 0),
        ("acc", "T.fit", ("epoch",), 0),
    ]
    assert found[3].expression == "e"


def test_counterparts_say_whether_it_is_the_same_statement() -> None:
    new = "for i in range(3):\n    loss = f(i)\n    flor.log('a', loss)\n    flor.log('b', loss + 1)\n    g(loss)\n"
    old = (
        "for k in range(3):\n    err = f(k)\n    flor.log('a', err)\n    flor.log('b', err + 2)\n    g(err)\n"
    )
    assert [(n.name, o.expression, same) for n, o, same in counterparts(new, old)] == [
        ("a", "err", True),
        ("b", "err + 2", False),
    ]


def test_identity_survives_moves_and_reformatting() -> None:
    one = find_statements("def f(a):\n    flor.log('x', a+1)\n")[0]
    two = find_statements("import os\n\ndef f( a ):\n    b = 2\n    flor.log( 'x', (a + 1) )\n")[0]
    assert one.identity == two.identity
