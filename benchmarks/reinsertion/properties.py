"""What must hold for every script of the benchmark, whatever the right place is."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator

from flor_dagster.propagation import Propagated, propagate
from flor_dagster.propagation.inserting import split_lines
from reinsertion.scoring import MARK

HELPER = "def __helper__(value):\n    import math\n    return [math.pi, value]\n"


def check(cases: list[dict], say: Callable[[str], None]) -> Counter[str]:
    """Count broken properties; each is said with its case."""
    broken: Counter[str] = Counter()
    for case in cases:
        for name in _broken(case):
            broken[name] += 1
            say(f"{name}: {case['id']}")
    return broken


def _broken(case: dict) -> Iterator[str]:
    new, old, line = case["new"], case["old"], case["line"]
    lines = split_lines(new)
    first = propagate(new, old, [line])
    if not _whole(first, old):
        yield "the old file, byte for byte"
    if (
        first != propagate(new + "# \n", old, [line])
        and first.source != propagate(new + "# \n", old, [line]).source
    ):
        yield "same input, same output"
    bare = "".join(lines[: line - 1] + lines[line:])
    if _parses(bare):
        back = propagate(new, bare, [line])
        refused = {r.kind for r in back.refusals}
        if back.source != new and refused != {"changes-training"}:
            yield "the source minus its statement gives the source back"
    for ending in (old.replace("\n", "\r\n"), old.rstrip("\n"), "\ufeff" + old):
        if not _whole(propagate(new, ending, [line]), ending):
            yield "other texts of the old file, byte for byte"
    flat = ast.unparse(ast.parse(new))
    if _tree(propagate(flat, old, [_marked(flat)])) != _tree(first):
        yield "reformatting the new version does not change the place"
    even = ast.unparse(ast.parse(old))
    if _tree(propagate(new, even, [line])) != _tree(first):
        yield "reformatting the old version does not change the place"
    gone = _with_line(lines, line, lambda text: text.replace(f'"{MARK}", ', f'"{MARK}", __gone__, ', 1))
    if "__gone__" in gone and "import *" not in new and not propagate(gone, old, [line]).refusals:
        yield "a name that nothing defines is refused"
    if not first.placements:
        return
    yield from _together(case, lines, first)


def _together(case: dict, lines: list[str], first: Propagated) -> Iterator[str]:
    """Several statements, a guarded one and one with a helper go where the single one goes."""
    old, line = case["old"], case["line"]
    place = first.placements[0].lines[0]
    twice = _with_line(lines, line, lambda text: text + text.replace(MARK, "__hs2__"))
    both = propagate(twice, old, [line, line + 1])
    spots = [p.lines for p in both.placements]
    if len(spots) != 2 or spots[0][0] >= spots[1][0] or spots[0][0] != place:
        yield "two statements stand together, in order"

    def guarded(text: str) -> str:
        indent = text[: len(text) - len(text.lstrip())]
        return f"{indent}if len(__name__) % 7 == 0:\n{indent}    {text.lstrip()}"

    guard = propagate(_with_line(lines, line, guarded), old, [line + 1])
    if [p.lines[0] for p in guard.placements] != [place]:
        yield "a guarded statement goes where the bare one goes"
    helped = _with_line(lines, line, lambda text: text.replace(f'"{MARK}", ', f'"{MARK}", __helper__', 1))
    call = _helper_call(helped.split("\n")[line - 1])
    if call is None or "__future__" in helped:
        return
    source = helped.split("\n")
    source[line - 1] = call
    result = propagate(HELPER + "\n".join(source), old, [line + HELPER.count("\n")])
    if not result.placements or "__helper__" not in result.placements[0].carried:
        yield "a helper travels along"


def _helper_call(text: str) -> str | None:
    """`flor.log("x", __helper__ expr)` as a call of the helper."""
    head, found, rest = text.partition("__helper__")
    rest = rest.rstrip()
    made = f"{head}{found}({rest[:-1]}))" if found and rest.endswith(")") else ""
    return made if made and _parses(made.strip()) else None


def _with_line(lines: list[str], line: int, change: Callable[[str], str]) -> str:
    return "".join([*lines[: line - 1], change(lines[line - 1]), *lines[line:]])


def _marked(source: str) -> int:
    return next(n for n, text in enumerate(source.split("\n"), 1) if MARK in text)


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _whole(result: Propagated, old: str) -> bool:
    """Whether taking the added lines out gives the old file, and whether the result is Python."""
    kept = "".join(t for n, t in enumerate(split_lines(result.source), 1) if n not in set(result.added))
    if not _parses(result.source.removeprefix("\ufeff")):
        return False
    if result.rewritten:
        return _same_program(result, old)
    # The last line of a file without a final newline gets one when something follows.
    return kept == old or (kept.rstrip("\r\n") == old and not old.endswith("\n"))


def _same_program(result: Propagated, old: str) -> bool:
    lines = split_lines(result.source)
    marked = {n for p in result.placements for n in range(p.lines[0], p.lines[1] + 1)}
    kept = "".join(t for n, t in enumerate(lines, 1) if n not in marked)
    return _parses(kept) and ast.dump(ast.parse(kept)) == ast.dump(ast.parse(old))


def _tree(result: Propagated) -> str:
    return ast.dump(ast.parse(result.source))
