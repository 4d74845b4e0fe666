"""Put the probe into the old program, run what was placed, and judge the answer and the second opinion on it."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass

from flor_dagster.errors import PropagationError
from flor_dagster.placecheck import PlaceVerdict, Spot, check_place
from flor_dagster.propagation import propagate_tree
from tests.placing_oracle.programs import is_probe, make
from tests.placing_oracle.refactorings import Project, pair
from tests.placing_oracle.running import run


@dataclass
class Case:
    """A pair of programs: the newest with the probe, the old without, and which values are right."""

    seed: int
    new: dict[str, str]
    old: dict[str, str]
    marked: dict[str, str]
    file: str
    lines: tuple[int, int]
    right: list[list[str]]
    keeps: bool
    done: list[str]


def probe_in(files: dict[str, str]) -> list[tuple[str, int, int]]:
    return [
        (path, node.lineno, node.end_lineno or node.lineno)
        for path, text in files.items()
        for node in ast.walk(ast.parse(text))
        if is_probe(node)
    ]


def case_of(seed: int) -> Case | None:
    """The case of a seed; None where the program does not run or the probe is never reached."""
    rng = random.Random(seed)
    old, new = pair(make(rng), rng)
    marked, written = old.files(probe=True), new.files(probe=True)
    before, after = run(marked), run(written)
    if isinstance(before, str) or isinstance(after, str) or not before or not after:
        return None
    if new.keeps and not new.guarded and before != after:
        raise AssertionError(f"seed {seed}: {old.done} {new.done} changed the value")
    places = probe_in(written)
    if len(places) != 1:
        return None
    path, first, last = places[0]
    right = [after, before] if new.keeps else [after]
    if new.guarded:
        # A condition around the statement alone belongs to it; one that the old version has decides when there is a value.
        right = {"alone": [after], "along": [after, before], "old": [before]}[new.guarded]
    return Case(
        seed, written, plain(old), marked, path, (first, last), right, new.keeps, [*old.done, "|", *new.done]
    )


def plain(project: Project) -> dict[str, str]:
    return project.files(probe=False)


@dataclass
class Answer:
    """What became of the probe: refused, or placed with these values and this opinion."""

    kind: str
    values: list[str] | str = ""
    verdict: PlaceVerdict | None = None
    placed: dict[str, str] | None = None

    def is_wrong(self, case: Case) -> bool:
        return self.kind == "placed" and self.values not in case.right

    def passes(self) -> bool:
        return self.verdict is not None and self.verdict.verdict == "certain"


def answer(case: Case) -> Answer:
    """Propagate the probe, ask for the second opinion, run what was placed."""
    try:
        result = propagate_tree(
            case.new, case.old, {case.file: [case.lines[0]]}, entry_points=("train.py", "train.py")
        )
    except PropagationError:
        return Answer("error")
    if result.refusals or not result.placements:
        return Answer("refused")
    (found,) = result.placements
    placed = {**case.old, **{path: f.source for path, f in result.files.items()}}
    verdict = check_place(
        case.new,
        case.old,
        placed,
        Spot(case.file, found.placement.statement.lines),
        Spot(found.old_path, found.placement.lines),
    )
    return Answer("placed", run(placed), verdict, placed)


def other_places(case: Case, rng: random.Random, most: int) -> Iterator[Answer]:
    """The probe at other places of the old program, each with the opinion on it."""
    ((path, first, _),) = probe_in(case.marked)[:1]
    text = case.marked[path].split("\n")[first - 1].strip()
    spots: list[tuple[str, int, int]] = []
    for name, source in case.old.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.stmt) and not isinstance(
                node, ast.ClassDef | ast.Import | ast.ImportFrom
            ):
                spots += [
                    (name, node.lineno, node.col_offset),
                    (name, (node.end_lineno or 0) + 1, node.col_offset),
                ]
    spots = sorted(set(spots))
    rng.shuffle(spots)
    for name, line, column in spots[:most]:
        lines = case.old[name].split("\n")
        lines.insert(line - 1, " " * column + text)
        placed = {**case.old, name: "\n".join(lines)}
        try:
            ast.parse(placed[name])
        except SyntaxError:
            continue
        verdict = check_place(
            case.new, case.old, placed, Spot(case.file, case.lines), Spot(name, (line, line))
        )
        yield Answer("placed", run(placed), verdict, placed)


def right_place(case: Case) -> Answer | None:
    """The probe where the old program has it by construction."""
    places = probe_in(case.marked)
    if (
        len(places) != 1
        or not case.keeps
        or "guard" in case.done
        or "pass" in "".join(case.old.values()).split()
    ):
        return None
    path, first, last = places[0]
    verdict = check_place(
        case.new, case.old, case.marked, Spot(case.file, case.lines), Spot(path, (first, last))
    )
    return Answer("placed", run(case.marked), verdict, case.marked)
