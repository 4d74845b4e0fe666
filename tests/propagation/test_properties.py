"""What holds for every program: generated scripts, not chosen ones."""

from __future__ import annotations

import ast
import itertools
import os
import subprocess
import sys
import textwrap

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


COMMON = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


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


@st.composite
def questions(draw: st.DrawFn) -> tuple[str, list[int]]:
    """A script and the lines of several statements in it, some of them side by side."""
    source = draw(blocks(2, ("alpha",), "    ")) + "\n"
    lines = ("def main(alpha):\n" + source + "main(1)\n").split("\n")
    assigned = [n for n in ast.walk(ast.parse("\n".join(lines))) if isinstance(n, ast.Assign)]
    chosen = draw(st.lists(st.sampled_from(assigned), max_size=3, unique_by=id)) if assigned else []
    number = 0
    for node in sorted(chosen, key=lambda n: -n.lineno):
        text = lines[node.lineno - 1]
        indent = text[: len(text) - len(text.lstrip())]
        for _ in range(draw(st.integers(1, 3))):
            lines.insert(node.lineno, f"{indent}flor.log('S{number}', {ast.unparse(node.targets[0])})")
            number += 1
    return "\n".join(lines), [n for n, text in enumerate(lines, 1) if "flor.log" in text]


def taken_out(source: str, lines: list[int]) -> str:
    return "\n".join(text for n, text in enumerate(source.split("\n"), 1) if n not in lines)


@COMMON
@given(questions())
def test_several_statements_come_back_together_and_in_order(made: tuple[str, list[int]]) -> None:
    source, lines = made
    result = propagate(source, taken_out(source, lines), lines)
    assert not result.refusals
    assert result.source == source


@COMMON
@given(questions(), st.integers(0, 99), st.sampled_from(CALLS))
def test_statements_that_stand_together_never_change_places(
    made: tuple[str, list[int]], seed: int, call: str
) -> None:
    source, lines = made
    old = taken_out(source, lines).split("\n")
    # Two lines of the same depth change places, and another call comes in between.
    spots = [n for n in range(1, len(old) - 2) if depth(old[n]) == depth(old[n + 1]) != ""]
    if spots:
        n = spots[seed % len(spots)]
        old[n : n + 2] = [old[n + 1], f"{depth(old[n])}{call}(seed)", old[n]]
    text = "\n".join(old)
    try:
        ast.parse(text)
    except SyntaxError:
        return
    result = propagate(source, text, lines)
    placed = {s.name: s.lines[0] for s in find_statements(result.source)}
    order = [(n, s.name) for n, s in zip(lines, find_statements(source), strict=True)]
    for (line, name), (after, other) in itertools.pairwise(order):
        if after == line + 1 and name in placed and other in placed:
            assert placed[name] < placed[other]


def depth(text: str) -> str:
    return text[: len(text) - len(text.lstrip())] if text.strip() and not text.strip().startswith("#") else ""


@COMMON
@given(scripts(), st.booleans())
def test_without_the_definition_there_is_no_place(made: tuple[str, int], also_there: bool) -> None:
    source, line = made
    lines = source.split("\n")
    indent = lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())]
    # A name of its own, defined right above the statement that reads it.
    lines[line - 1] = f"{indent}flor.log('Q', zeta + 1)"
    lines.insert(line - 1, f"{indent}zeta = fetch(7)")
    new = "\n".join(lines)
    old = "\n".join(text for n, text in enumerate(lines, 1) if n != line + 1 and (also_there or n != line))
    result = propagate(new, old, [line + 1])
    assert bool(result.placements) is also_there
    if not also_there:
        assert [r.missing for r in result.refusals] == ["zeta"]
        assert result.source == old


@COMMON
@given(scripts(), st.sampled_from(["  ", "\t", "        "]))
def test_a_formatter_changes_no_place(made: tuple[str, int], indent: str) -> None:
    source, line = made
    old = without(source, line)
    plain = ast.dump(ast.parse(propagate(source, old, [line]).source))
    for new, target in ((source, formatted(old, indent)), (formatted(source, indent), old)):
        at = find_statements(new)[0].lines[0]
        assert ast.dump(ast.parse(propagate(new, target, [at]).source)) == plain


def formatted(source: str, indent: str) -> str:
    """The same program in another layout: other indentation, comments, blank lines, broken calls."""
    lines: list[str] = []
    for text in ast.unparse(ast.parse(source)).split("\n"):
        level = (len(text) - len(text.lstrip())) // 4
        body = text.strip()
        lines.append(f"{indent * level}# about {body[:9]}")
        if body.endswith(")") and "(" in body and not body.startswith(("def", "for", "if", "with")):
            head, _, rest = body.partition("(")
            lines += [
                f"{indent * level}{head}(",
                f"{indent * (level + 2)}{rest[:-1]}",
                f"{indent * level})",
                "",
            ]
        else:
            lines.append(indent * level + body)
    return "\n".join(lines) + "\n"


def test_the_answer_is_the_same_under_every_hash_seed() -> None:
    program = textwrap.dedent("""
        import hashlib
        from flor_dagster.propagation import propagate
        new = '''
        import numpy as np
        def score(a, b, c):
            return np.mean([a, b, c])
        for epoch in range(3):
            total, best = start(epoch)
            for x, y in data:
                loss, acc = fit(x, y)
                total = total + loss
                flor.log('Q', {'l': loss, 'a': acc, 't': total, 's': score(loss, acc, total)})
                flor.log('R', [gone, best, x, y])
            use(total, best)
        '''
        old = '''
        for ep in range(3):
            summed, top = start(ep)
            for u, v in data:
                err, hits = fit(u, v)
                summed = summed + err
            use(summed, top)
        '''
        import textwrap
        print(repr(propagate(textwrap.dedent(new), textwrap.dedent(old), [10, 11])))
    """)
    found = set()
    for seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1
    assert "gone" in found.pop()
