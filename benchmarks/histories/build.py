"""Mine cases from bare clones; deterministic: the same clones give the same cases.

How the truth is made. A version pair is two commits of one file, up to 20 of its versions apart. A statement is put behind
an assignment of the newer version whose line can be followed through *every* version between (equal lines, or a changed line
that stands alone for another one) to an assignment of the older version; behind that one is where it belongs. What must be
refused reads a name, or stands in a function, that came in between: nothing of the older version has it.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.histories.mining import Mine, Traced, order, through
from benchmarks.histories.places import FUNCTIONS, Place, anchors, bound_names
from benchmarks.histories.repos import REPOS

DISTANCES = (1, 5, 20)
FILES = 30  # of a repository
PAIRS = 4  # of a file and distance
PER_KIND = 14  # of a repository
NOTEBOOK = ".ipynb"
Case = dict[str, object]


class Pair:
    """Two versions of a file with what is known of their lines."""

    def __init__(self, mine: Mine, versions: list[tuple[str, str]], distance: int) -> None:
        self.mine, self.distance = mine, distance
        (self.new_commit, self.new_path), (self.old_commit, self.old_path) = versions[0], versions[-1]
        texts = [mine.text(*v) for v in versions]
        self.complete = all(t is not None for t in texts)
        self.texts = [t or "" for t in texts]
        self.new, self.old = self.texts[0], self.texts[-1]
        self.new_tree, self.old_tree = ast.parse(self.new), ast.parse(self.old)

    def traced(self) -> Traced:
        return through(self.texts)

    def key(self, *parts: object) -> str:
        return order(self.mine.name, self.new_path, self.new_commit, self.old_commit, *parts)

    def case(
        self, kind: str, new: dict[str, str], asked: dict[str, list[int]], truth: object, **more: object
    ) -> Case:
        old = {as_script(self.old_path): self.old} | dict(more.pop("others", {}))  # type: ignore[arg-type]
        return {
            "id": f"{self.mine.name}-{kind}-{self.key(kind, asked)[:10]}", "repo": self.mine.name, "kind": kind,
            "distance": self.distance, "commits": [self.new_commit, self.old_commit],
            "new": {as_script(p): t for p, t in new.items()}, "old": old, "asked": {as_script(p): n for p, n in asked.items()},
            "renames": {as_script(self.new_path): as_script(self.old_path)} if self.new_path != self.old_path else {},
            "truth": truth, **more,
        }  # fmt: skip


def as_script(path: str) -> str:
    return path.removesuffix(NOTEBOOK) + ".py" if path.endswith(NOTEBOOK) else path


def followed(pair: Pair) -> Iterator[tuple[Place, str, Place, str]]:
    """(new place, name, old place, name there) of assignments that could be followed."""
    traced = pair.traced()
    theirs = {p.node.lineno: (p, name) for p, name in anchors(pair.old_tree, pair.old.split("\n"))}
    for place, name in anchors(pair.new_tree, pair.new.split("\n")):
        line = traced.lines.get(place.node.lineno)
        if line is None or line not in theirs:
            continue
        other, other_name = theirs[line]
        same = ast.dump(place.node) == ast.dump(other.node)
        if (
            not same
            and difflib.SequenceMatcher(None, ast.unparse(place.node), ast.unparse(other.node)).ratio() < 0.6
        ):
            continue
        if same or (name == other_name) or name not in bound_names(pair.old_tree):
            yield place, name, other, other_name


def hard(pair: Pair, place: Place, other: Place) -> bool:
    """Whether a neighbour or something around it differs."""

    def near(p: Place) -> list[str]:
        return [ast.dump(s) for s in p.block[max(0, p.index - 1) : p.index + 2] if s is not p.node]

    headers = [type(o).__name__ + getattr(o, "name", "") for o in place.owners] == [
        type(o).__name__ + getattr(o, "name", "") for o in other.owners
    ]
    return not headers or near(place) != near(other) or pair.new_path != pair.old_path


def behind(text: str, place: Place, *added: str) -> tuple[str, int]:
    """A text with lines behind a statement, at its indentation; the first one's number."""
    rows = text.split("\n")
    indent = rows[place.node.lineno - 1][: place.node.col_offset]
    at = place.node.end_lineno or place.node.lineno
    rows[at:at] = [indent + line for line in added]
    return "\n".join(rows), at + 1


def on_top(text: str, *added: str) -> str:
    """A text with lines behind its docstring and first imports."""
    at = 0
    for n, statement in enumerate(ast.parse(text).body):
        doc = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and not n
        if not doc and not isinstance(statement, (ast.Import, ast.ImportFrom)):
            break
        at = statement.end_lineno or 0
    rows = text.split("\n")
    rows[at:at] = added
    return "\n".join(rows)


def truth_of(pair: Pair, other: Place, name: str, expression: str, log: str = "q") -> dict[str, object]:
    return {
        "name": log,
        "path": as_script(pair.old_path),
        "line": other.node.lineno,
        "expression": expression,
        "value": name,
    }


def single(pair: Pair, found: list[tuple[Place, str, Place, str]]) -> Iterator[Case]:
    for place, name, other, old_name in found:
        kind = "one" if name == old_name else "renamed"
        text, line = behind(pair.new, place, f'flor.log("q", {name})')
        yield pair.case(kind, {pair.new_path: text}, {pair.new_path: [line]}, [truth_of(pair, other, old_name, old_name)],
                        hard=hard(pair, place, other))  # fmt: skip


def several(pair: Pair, found: list[tuple[Place, str, Place, str]]) -> Iterator[Case]:
    chosen = sorted([f for f in found if f[1] == f[3]], key=lambda f: pair.key("several", f[0].node.lineno))[
        :3
    ]
    if len(chosen) < 3:
        return
    text, asked, truth = pair.new, [], []
    for number, (place, name, other, _) in enumerate(sorted(chosen, key=lambda f: -f[0].node.lineno)):
        text, line = behind(text, place, f'flor.log("q{number}", {name})')
        asked = [n + 1 for n in asked] + [line]
        truth.append(truth_of(pair, other, name, name, f"q{number}"))
    yield pair.case("several", {pair.new_path: text}, {pair.new_path: asked}, truth)


def guarded(pair: Pair, found: list[tuple[Place, str, Place, str]]) -> Iterator[Case]:
    for place, name, other, old_name in found:
        if name != old_name:
            continue
        text, line = behind(pair.new, place, f"if {name} is not None:", f'    flor.log("q", {name})')
        yield pair.case("guarded", {pair.new_path: text}, {pair.new_path: [line + 1]},
                        [truth_of(pair, other, name, name)], guard=f"{name} is not None")  # fmt: skip
        break


def carried(pair: Pair, found: list[tuple[Place, str, Place, str]]) -> Iterator[Case]:
    """A helper function with its constant and its import; an import alone."""
    words = set(re.findall(r"\w+", pair.new + pair.old))
    for place, name, other, old_name in found:
        if name != old_name or {"fractions", "hs_scaled", "HS_WIDTH"} & words:
            continue
        text, line = behind(pair.new, place, f'flor.log("q", fractions.Fraction(str({name})))')
        head = on_top(text, "import fractions")
        gained = head.count("\n") - text.count("\n")
        yield pair.case("import", {pair.new_path: head}, {pair.new_path: [line + gained]},
                        [truth_of(pair, other, name, f"fractions.Fraction(str({name}))")], needs=["import fractions"])  # fmt: skip
        text, line = behind(pair.new, place, f'flor.log("q", hs_scaled({name}))')
        head = on_top(text, "import fractions", "", "HS_WIDTH = 3", "", "", "def hs_scaled(value):",
                      "    return fractions.Fraction(str(value)) / HS_WIDTH", "", "")  # fmt: skip
        gained = head.count("\n") - text.count("\n")
        yield pair.case("helper", {pair.new_path: head}, {pair.new_path: [line + gained]},
                        [truth_of(pair, other, name, f"hs_scaled({name})")], needs=["def hs_scaled", "HS_WIDTH = 3"])  # fmt: skip
        break


def split(pair: Pair, found: list[tuple[Place, str, Place, str]]) -> Iterator[Case]:
    """One side's top-level function lies in a file of its own; the other side is as it was."""
    for place, name, other, old_name in found:
        outer = [o for o in place.owners if isinstance(o, FUNCTIONS)]
        theirs = [o for o in other.owners if isinstance(o, FUNCTIONS)]
        if not outer or not theirs or name != old_name or outer[0] not in pair.new_tree.body:
            continue
        if outer[0].name != theirs[0].name or theirs[0] not in pair.old_tree.body or outer[0].decorator_list:
            continue
        text, line = behind(pair.new, place, f'flor.log("q", {name})')
        kept, taken, shift = apart(text, outer[0].name)
        if kept is not None:
            folder = pair.new_path.rpartition("/")[0]
            part = f"{folder}/hs_part.py".lstrip("/")
            yield pair.case("moved out", {pair.new_path: kept, part: taken}, {part: [line - shift]},
                            [truth_of(pair, other, name, name)])  # fmt: skip
        kept, taken, shift = apart(pair.old, theirs[0].name)
        if kept is not None:
            folder = pair.old_path.rpartition("/")[0]
            part = f"{folder}/hs_part.py".lstrip("/")
            truth = truth_of(pair, other, name, name) | {"path": part, "line": other.node.lineno - shift}
            case = pair.case(
                "moved in", {pair.new_path: text}, {pair.new_path: [line]}, [truth], others={part: taken}
            )
            case["old"] = {as_script(pair.old_path): kept, part: taken}
            yield case
        break


def apart(text: str, name: str) -> tuple[str | None, str, int]:
    """A text without a top-level function, that function in a file with the imports, and by how much its lines moved up."""
    tree = ast.parse(text)
    node = next((s for s in tree.body if isinstance(s, FUNCTIONS) and s.name == name), None)
    imports = [
        s
        for s in tree.body
        if isinstance(s, (ast.Import, ast.ImportFrom)) and getattr(s, "module", "") != "__future__"
    ]
    if node is None or not imports or node.lineno < imports[0].lineno:
        return None, "", 0
    rows = text.split("\n")
    head = [row for s in imports for row in rows[s.lineno - 1 : s.end_lineno]] + ["", ""]
    body = rows[node.lineno - 1 : node.end_lineno]
    kept = [*rows[: node.lineno - 1], *rows[node.end_lineno :]]
    at = imports[0].lineno - 1
    kept.insert(at, f"from hs_part import {name}")
    return "\n".join(kept), "\n".join([*head, *body, ""]), node.lineno - 1 - len(head)


def really_moved(pair: Pair) -> Iterator[Case]:
    """Functions that the history itself moved to another file: the same body, in one other file of the old version."""
    old_functions = {s.name for s in ast.walk(pair.old_tree) if isinstance(s, FUNCTIONS)}
    files = [f for f in pair.mine.files(pair.old_commit) if f.endswith(".py") and f != pair.old_path]
    rows = pair.new.split("\n")
    for function in pair.new_tree.body:
        if (
            not isinstance(function, FUNCTIONS)
            or function.name in old_functions
            or function.name.startswith("__")
        ):
            continue
        body = [r.strip() for r in rows[function.lineno - 1 : function.end_lineno]]
        homes: list[tuple[str, str, ast.AST]] = []
        for file in files[:400]:
            text = pair.mine.text(pair.old_commit, file)
            if text is None or f"def {function.name}(" not in text:
                continue
            for other in ast.walk(ast.parse(text)):
                if isinstance(other, FUNCTIONS) and other.name == function.name:
                    theirs = [r.strip() for r in text.split("\n")[other.lineno - 1 : other.end_lineno]]
                    if difflib.SequenceMatcher(None, body, theirs, autojunk=False).ratio() >= 0.8:
                        homes.append((file, text, other))
        if len(homes) != 1:
            continue
        file, text, other = homes[0]
        theirs = [
            (p, n)
            for p, n in anchors(ast.parse(text), text.split("\n"))
            if other.lineno <= p.node.lineno <= other.end_lineno
        ]
        for place, name in anchors(pair.new_tree, rows):
            if place.function is not function:
                continue
            same = [p for p, n in theirs if ast.dump(p.node) == ast.dump(place.node)]
            mine = [
                p
                for p, _ in anchors(pair.new_tree, rows)
                if p.function is function and ast.dump(p.node) == ast.dump(place.node)
            ]
            if len(same) == 1 and len(mine) == 1:
                new, line = behind(pair.new, place, f'flor.log("q", {name})')
                truth = {
                    "name": "q",
                    "path": file,
                    "line": same[0].node.lineno,
                    "expression": name,
                    "value": name,
                }
                yield pair.case(
                    "really moved",
                    {pair.new_path: new},
                    {pair.new_path: [line]},
                    [truth],
                    others={file: text},
                )
                break


def refused(pair: Pair) -> Iterator[Case]:
    """Reads a name, or stands in a function, that came in between."""
    words = set(re.findall(r"\w+", pair.old))
    new_rows = pair.new.split("\n")
    old_values = [ast.unparse(n.value) for n in ast.walk(pair.old_tree) if isinstance(n, ast.Assign)]
    old_lines = {r.strip() for r in pair.old.split("\n")}
    for place, name in anchors(pair.new_tree, new_rows):
        function = place.function
        text, line = behind(pair.new, place, f'flor.log("q", {name})')
        if isinstance(function, FUNCTIONS) and function.name not in words:
            body = [r.strip() for r in new_rows[function.lineno : function.end_lineno] if len(r.strip()) > 8]
            if len(body) >= 3 and sum(r in old_lines for r in body) <= 0.05 * len(body):
                yield pair.case("refuse: function", {pair.new_path: text}, {pair.new_path: [line]}, None)
                continue
        if name in words or not isinstance(place.node, ast.Assign) or name in dir(builtins):
            continue
        made = [
            n
            for n in ast.walk(pair.new_tree)
            if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store)
        ]
        value = ast.unparse(place.node.value)
        if len(made) != 1 or len(value) < 10:
            continue
        if all(difflib.SequenceMatcher(None, value, v).ratio() < 0.6 for v in old_values):
            yield pair.case("refuse: name", {pair.new_path: text}, {pair.new_path: [line]}, None)


def cases_of(mine: Mine, pattern: str) -> Iterator[Case]:
    for history in mine.histories(pattern, FILES):
        for distance in DISTANCES:
            starts = sorted(
                range(len(history) - distance), key=lambda i: order(mine.name, history[i], distance)
            )
            for start in starts[:PAIRS]:
                versions = history[start : start + distance + 1]
                if mine.text(*versions[0]) is None or mine.text(*versions[-1]) is None:
                    continue
                pair = Pair(mine, versions, distance)
                if pair.new == pair.old:
                    continue
                if pair.complete:
                    found = list(followed(pair))
                    found.sort(key=lambda f: (not hard(pair, f[0], f[2]), pair.key(f[0].node.lineno)))
                    yield from single(pair, found[:2])
                    for make in (several, guarded, carried, split):
                        yield from make(pair, found)
                yield from refused(pair)
                if distance == DISTANCES[-1] or len(history) < 12:
                    yield from really_moved(pair)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    heads: dict[str, str] = {}
    with arguments.out.open("w") as file:
        for name, pattern in REPOS.items():
            mine = Mine(arguments.mirror / name)
            heads[name] = mine.head
            kept: Counter[str] = Counter()
            found = sorted(cases_of(mine, pattern), key=lambda c: order(c["id"]))
            seen: set[str] = set()
            for case in found:
                kind, said = str(case["kind"]), json.dumps([case["kind"], case["truth"], case["old"]])
                if kept[kind] < PER_KIND and said not in seen:
                    seen.add(said)
                    kept[kind] += 1
                    file.write(json.dumps(case, sort_keys=True) + "\n")
            print(
                f"{name} {heads[name][:10]}: {sum(kept.values())} cases {dict(sorted(kept.items()))}",
                flush=True,
            )
    arguments.out.with_suffix(".heads.json").write_text(json.dumps(heads, indent=1))


if __name__ == "__main__":
    main()
