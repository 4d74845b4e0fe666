"""What holds for every program: generated scripts, not chosen ones."""

from __future__ import annotations

import ast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flor_dagster.propagation import find_statements, propagate

NAMES = ["alpha", "beta", "gamma", "delta", "omega"]
CALLS = ["fetch", "mix", "scale", "merge", "judge"]


@st.composite
def blocks(draw: st.DrawFn, depth: int, bound: tuple[str, ...], indent: str) -> str:
    """A block of statements in which every name that is read is bound."""
    lines: list[str] = []
    known = list(bound)
    for _ in range(draw(st.integers(2, 5))):
        kind = draw(st.sampled_from(["assign", "assign", "call", "for", "if", "with", "comment"]))
        read = ", ".join(draw(st.lists(st.sampled_from(known), min_size=1, max_size=2))) if known else "1"
        call = f"{draw(st.sampled_from(CALLS))}({read}, {draw(st.integers(0, 99))})"
        if kind == "assign":
            name = draw(st.sampled_from(NAMES))
            lines.append(f"{indent}{name} = {call}")
            known = [*known, name]
        elif kind == "call":
            lines.append(indent + call)
        elif kind == "comment":
            lines += ["", f"{indent}# {draw(st.sampled_from(CALLS))}"]
        elif depth:
            name = draw(st.sampled_from(NAMES))
            head = {"for": f"for {name} in {call}:", "if": f"if {call}:", "with": f"with {call} as {name}:"}[
                kind
            ]
            inner = (*known, name) if kind != "if" else tuple(known)
            lines += [indent + head, draw(blocks(depth - 1, inner, indent + "    "))]
    lines.append(f"{indent}{draw(st.sampled_from(CALLS))}(0)")
    return "\n".join(lines)


@st.composite
def scripts(draw: st.DrawFn) -> tuple[str, int]:
    """A script and the line in it where a statement about a bound name was put."""
    if draw(st.booleans()):
        source = draw(blocks(2, (), ""))
    else:
        source = "def main(alpha):\n" + draw(blocks(2, ("alpha",), "    ")) + "\nmain(1)"
    lines = (source + "\n").split("\n")
    assigned = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Assign)]
    if not assigned:
        return "alpha = fetch(1)\nflor.log('Q', alpha)\n" + source + "\n", 2
    chosen = assigned[draw(st.integers(0, len(assigned) - 1))]
    text = lines[chosen.lineno - 1]
    indent = text[: len(text) - len(text.lstrip())]
    target = ast.unparse(chosen.targets[0])
    lines.insert(chosen.lineno, f"{indent}flor.log('Q', {target})")
    return "\n".join(lines), chosen.lineno + 1


def without(source: str, line: int) -> str:
    lines = source.split("\n")
    return "\n".join(lines[: line - 1] + lines[line:])


COMMON = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@COMMON
@given(scripts())
def test_a_version_without_its_statement_gets_it_back(made: tuple[str, int]) -> None:
    source, line = made
    result = propagate(source, without(source, line), [line])
    assert not result.refusals
    assert ast.dump(ast.parse(result.source)) == ast.dump(ast.parse(source))
    assert result.source == source


@COMMON
@given(scripts(), scripts())
def test_an_unrelated_version_is_never_damaged(one: tuple[str, int], other: tuple[str, int]) -> None:
    new, line = one
    old = without(*other)
    result = propagate(new, old, [line])
    ast.parse(result.source)
    lines = result.source.split("\n")
    kept = "\n".join(text for n, text in enumerate(lines, 1) if n not in result.added)
    assert kept == old
    assert len(result.placements) + len(result.refusals) == 1
    assert result == propagate(new, old, [line])


@COMMON
@given(scripts())
def test_layout_says_nothing(made: tuple[str, int]) -> None:
    source, line = made
    old = without(source, line)
    flat = ast.unparse(ast.parse(source))
    flat_line = find_statements(flat)[0].lines[0]
    plain = propagate(source, old, [line]).source
    for new, at in ((source, line), (flat, flat_line)):
        for target in (old, ast.unparse(ast.parse(old)) + "\n"):
            assert ast.dump(ast.parse(propagate(new, target, [at]).source)) == ast.dump(ast.parse(plain))


@COMMON
@given(scripts())
def test_a_statement_that_is_there_is_left_alone(made: tuple[str, int]) -> None:
    source, line = made
    result = propagate(source, source, [line])
    assert [p.status for p in result.placements] == ["already-there"]
    assert result.source == source
