"""New code speaks the old version's names, and nothing else of it changes."""

from __future__ import annotations

import ast

import pytest

from flor_dagster.propagation import propagate
from flor_dagster.propagation.rewriting import rewritten


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("f(a,  b) # a", "f(x,  b) # a"),
        ("f'{a:.3f} a {b}'", "f'{x:.3f} a {b}'"),
        ("f(\n  'ä', a,\n  a.b)", "f(\n  'ä', x,\n  x.b)"),
        ("args.rate + args.size", "cfg.opt.rate + args.size"),
        ("{'a': a}", "{'a': x}"),
        ("g(a=a)", "g(a=x)"),
    ],
)
def test_names_are_replaced_and_the_layout_kept(source: str, expected: str) -> None:
    assert rewritten(source, {"a": "x", "args.rate": "cfg.opt.rate", "b": "b"}) == expected


def test_names_in_long_format_strings() -> None:
    source = "f'''{a}\n  {a + 1:{a}} {b!r}\n'''"
    assert ast.dump(ast.parse(rewritten(source, {"a": "xyz"}))) == ast.dump(
        ast.parse("f'''{xyz}\n  {xyz + 1:{xyz}} {b!r}\n'''")
    )


def test_a_name_that_the_expression_binds_itself_is_not_captured() -> None:
    new = "loss = f(1)\ng(loss)\nflor.log('Q', [e for e in range(9) if e < loss])\nk(loss)\n"
    old = "e = f(1)\ng(e)\nk(e)\n"
    (refusal,) = propagate(new, old, [3]).refusals
    assert "`e`" in refusal.sentence
