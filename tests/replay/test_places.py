"""Where a statement goes in real histories: files renamed, split, merged, moved; branches; uncommitted code."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flor_dagster.propagation import find_statements
from flor_dagster.replay.placing import PlacedVersion, VersionPlacer
from flor_dagster.store.models import StatementRow
from flor_dagster.versions import Repository
from flor_dagster.versions.snapshot import snapshot
from tests.replay.conftest import Lab

SCRIPT = """\
import flor_dagster as flor


def train_step(weights, item):
    target = 0.5 * item + 1.0
    slope = weights * item - target
    damped = slope / (1.0 + abs(slope))
    weights = weights - 0.1 * damped
    return weights


def main():
    weights = 2.0
    for epoch in flor.loop("epoch", range(3)):
        for step in flor.loop("step", range(4)):
            weights = train_step(weights, step)
            flor.log("weights", weights)
        print(epoch, weights)


if __name__ == "__main__":
    main()
"""
STEPS = SCRIPT[SCRIPT.index("def train_step") : SCRIPT.index("def main")].rstrip() + "\n"
SPLIT = SCRIPT.replace(
    SCRIPT[SCRIPT.index("def train_step") : SCRIPT.index("def main")], "from steps import train_step\n\n\n"
)
INLINE = SCRIPT.replace(SCRIPT[SCRIPT.index("def train_step") : SCRIPT.index("def main")], "").replace(
    "            weights = train_step(weights, step)\n",
    "            target = 0.5 * step + 1.0\n"
    "            slope = weights * step - target\n"
    "            damped = slope / (1.0 + abs(slope))\n"
    "            weights = weights - 0.1 * damped\n",
)
STATEMENT = 'flor.log("slope", slope)'


def asking(text: str) -> str:
    """A text that logs the slope."""
    indent = "            " if text == INLINE else "    "
    line = next(row for row in text.split("\n") if row.strip().startswith("slope = "))
    text = text.replace(line, f"{line}\n{indent}{STATEMENT}")
    return text if "import flor" in text else f"import flor_dagster as flor\n\n\n{text}"


def row(source: str, file: str, text: str) -> StatementRow:
    statement = next(s for s in find_statements(text) if s.name == "slope")
    return StatementRow(
        1, "slope", "slope", statement.expression, file, statement.function, statement.loops, statement.ordinal,
        statement.lines[0], True, source, datetime.now(UTC),
    )  # fmt: skip


def place(lab: Lab, source: str, file: str, commit: str, script: str = "train.py") -> PlacedVersion:
    repository = Repository(lab.root)
    text = repository.read(source, file) or ""
    return VersionPlacer(repository).place(commit, script, [row(source, file, text)])


def placed_after(placed: PlacedVersion, file: str) -> str:
    """The line behind which the statement stands; every other line is as it was."""
    assert not placed.refusals, placed.refusals
    (found,) = placed.files
    assert found == file
    rows = placed.files[file].text.split("\n")
    at = next(n for n, line in enumerate(rows) if line.strip() == STATEMENT)
    return rows[at - 1].strip()


SLOPE = "slope = weights * item - target"
INLINE_SLOPE = "slope = weights * step - target"


@pytest.mark.parametrize(
    ("old", "new", "there", "here", "after"),
    [
        ({"train.py": SCRIPT}, {"main.py": SCRIPT}, "train.py", "main.py", SLOPE),
        ({"train.py": SCRIPT}, {"src/net/train.py": SCRIPT}, "train.py", "src/net/train.py", SLOPE),
        ({"train.py": SCRIPT}, {"train.py": SPLIT, "steps.py": STEPS}, "train.py", "steps.py", SLOPE),
        ({"train.py": SPLIT, "steps.py": STEPS}, {"train.py": SCRIPT}, "steps.py", "train.py", SLOPE),
        ({"train.py": INLINE}, {"train.py": SPLIT, "steps.py": STEPS}, "train.py", "steps.py", INLINE_SLOPE),
        ({"train.py": SPLIT, "steps.py": STEPS}, {"train.py": INLINE}, "steps.py", "train.py", SLOPE),
        ({"old/steps.py": STEPS, "train.py": SCRIPT.replace("slope", "s")},
         {"steps.py": STEPS, "train.py": SCRIPT.replace("slope", "s")}, "old/steps.py", "steps.py", SLOPE),
    ],
    ids=["entry point renamed", "moved into src", "function moved out", "function moved in", "code extracted", "code inlined",
         "helper moved"],
)  # fmt: skip
def test_code_that_moved_between_files_is_found(
    lab: Lab, old: dict[str, str], new: dict[str, str], there: str, here: str, after: str
) -> None:
    first = lab.commit(old, "the old way")
    for path in old:
        (lab.root / path).unlink()
    source = lab.commit({**new, here: asking(new[here])}, "the new way")
    placed = place(lab, source, here, first)
    assert placed_after(placed, there) == after
    file, placement = placed.placements[1]
    assert file == there
    assert placed.files[there].text.split("\n")[placement.lines[1] - 1].strip() == STATEMENT


def test_a_file_that_was_renamed_twice_and_rewritten_is_followed(lab: Lab) -> None:
    rewritten = SCRIPT.replace("weights", "w").replace("print(epoch, w)", "show(epoch, w, 'after')")
    first = lab.commit({"train.py": rewritten}, "first")
    lab.git("mv", "train.py", "fit.py")
    lab.commit({"fit.py": rewritten.replace("2.0", "3.0")}, "call it fit")
    lab.commit({"fit.py": SCRIPT}, "say weights")
    lab.git("mv", "fit.py", "main.py")
    source = lab.commit({"main.py": asking(SCRIPT)}, "call it main")
    assert placed_after(place(lab, source, "main.py", first), "train.py") == "slope = w * item - target"


def test_a_refusal_names_the_commit_that_brought_in_what_is_missing(lab: Lab) -> None:
    plain = INLINE.replace("            slope = weights * step - target\n", "").replace(
        "slope", "(weights * step)"
    )
    first = lab.commit({"train.py": plain}, "first")
    lab.commit({"train.py": plain.replace("range(4)", "range(5)")}, "more steps")
    blamed = lab.commit({"train.py": INLINE}, "Give the slope a name")
    source = lab.commit({"train.py": asking(INLINE)}, "ask")
    placed = place(lab, source, "train.py", first)
    (refusal,) = placed.refusals.values()
    assert refusal.missing == "slope"
    assert f"`slope` came with {blamed[:8]} (" in refusal.sentence
    assert "'Give the slope a name')" in refusal.sentence


def test_versions_of_uncommitted_code_and_branches_are_reached(lab: Lab) -> None:
    lab.commit({"train.py": INLINE}, "first")
    lab.write({"train.py": INLINE.replace("weights", "w")})
    dirty = snapshot(lab.root).commit
    lab.git("checkout", "--quiet", "-b", "side", "--force")
    side = lab.commit({"fit.py": INLINE.replace("0.1", "0.2")}, "another script")
    lab.git("checkout", "--quiet", "--force", "main")
    lab.write({"train.py": asking(INLINE)})
    source = snapshot(lab.root).commit
    assert placed_after(place(lab, source, "train.py", dirty), "train.py") == "slope = w * step - target"
    assert placed_after(place(lab, source, "train.py", side), "train.py") == INLINE_SLOPE


def test_one_placer_serves_all_versions_of_a_long_history(lab: Lab) -> None:
    commits = [
        lab.commit({"train.py": INLINE.replace("range(4)", f"range({n})")}, f"number {n}")
        for n in range(4, 16)
    ]
    source = lab.commit({"train.py": asking(INLINE)}, "ask")
    repository = Repository(lab.root)
    placer = VersionPlacer(repository)
    statement = row(source, "train.py", asking(INLINE))
    for commit in reversed(commits):
        assert placed_after(placer.place(commit, "train.py", [statement]), "train.py") == INLINE_SLOPE
    assert placer.place(commits[0], "train.py", [statement]) is placer.place(
        commits[0], "train.py", [statement]
    )


def test_expressions_that_change_the_training_need_leave(lab: Lab) -> None:
    first = lab.commit({"train.py": INLINE}, "first")
    text = INLINE.replace(
        "print(epoch, weights)", "print(epoch, weights)\n        flor.log('slope', items.pop())"
    ).replace("    weights = 2.0\n", "    weights = 2.0\n    items = [1]\n")
    old = lab.commit(
        {"train.py": INLINE.replace("    weights = 2.0\n", "    weights = 2.0\n    items = [1]\n")}, "items"
    )
    source = lab.commit({"train.py": text}, "ask")
    repository = Repository(lab.root)
    statement = row(source, "train.py", text)
    refused = VersionPlacer(repository).place(old, "train.py", [statement])
    assert refused.refusals[1].kind == "changes-training"
    allowed = VersionPlacer(repository, allow_effects=True).place(old, "train.py", [statement])
    assert allowed.placements
    assert first


def test_values_come_out_of_another_file_than_they_are_asked_in(lab: Lab) -> None:
    lab.commit({"train.py": SPLIT, "steps.py": STEPS}, "two files")
    lab.train()
    lab.commit({"train.py": asking(INLINE)}, "one file")
    (lab.root / "steps.py").unlink()
    from flor_dagster.replay.model import Question

    with lab.open() as workspace:
        report = workspace.answer(Question(("slope",)))
        assert report.complete, [c.cell.sentence for c in report.cells]
        frame = workspace.store.dataframe("slope", "weights")
    before = [2.0, *frame["weights"].tolist()[:-1]]
    steps = [0, 1, 2, 3] * 3
    assert frame["slope"].tolist() == [w * s - (0.5 * s + 1.0) for w, s in zip(before, steps, strict=True)]
