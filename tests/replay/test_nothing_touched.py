"""Recording and replaying leave everything of the user's as it was."""

from __future__ import annotations

import os
from pathlib import Path

from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab

SCRIPT = """\
import flor_dagster as flor
text = open("data/small.csv").read()
total = 0
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        total += len(text) + step
    flor.log("total", total)
    {more}
with open("result.txt", "w") as file:
    file.write(str(total))
"""


def picture(lab: Lab) -> dict[str, object]:
    """Everything of the user's that could change, but for `.flor/` and `refs/flor/`."""
    git = lab.root / ".git"
    # Reading the status refreshes the index's stat cache: the bytes come first.
    index = (git / "index").read_bytes()
    files = {
        p.relative_to(lab.root): (p.read_bytes(), p.stat().st_mode, p.stat().st_mtime_ns)
        for p in sorted(lab.root.rglob("*"))
        if p.is_file() and not {".git", ".flor"} & set(p.relative_to(lab.root).parts)
    }
    refs = [line for line in lab.git("for-each-ref").splitlines() if "refs/flor/" not in line]
    return {
        "index": index, "files": files, "refs": refs, "head": (git / "HEAD").read_bytes(),
        "config": (git / "config").read_bytes(), "status": lab.git("status", "--porcelain=v2", "--branch"),
        "worktrees": lab.git("worktree", "list"), "stash": lab.git("stash", "list", "--format=%H %gs"),
        "reflog": lab.git("reflog", "--all", "--format=%H %gs"),
        "diff": lab.git("diff"), "staged": lab.git("diff", "--cached"),
    }  # fmt: skip


def test_a_repository_with_staged_unstaged_untracked_and_ignored_files_and_a_stash_stays_as_it_was(
    lab: Lab,
) -> None:
    lab.commit({"train.py": SCRIPT.format(more=""), "kept.txt": "one\n", "staged.txt": "one\n",
                ".gitignore": "data/\nresult.txt\n*.log\n"})  # fmt: skip
    lab.write({"data/small.csv": "1,2,3\n", "noise.log": "ignored\n"})
    lab.write({"kept.txt": "stashed\n"})
    lab.git("stash")
    lab.write({"staged.txt": "two\n", "new_staged.txt": "staged\n"})
    lab.git("add", "staged.txt", "new_staged.txt")
    lab.write(
        {"staged.txt": "three\n", "kept.txt": "unstaged\n", "untracked.py": "x = 1\n", ".env": "KEY=secret\n"}
    )
    lab.write({"result.txt": "before"})
    before = picture(lab)

    # The script itself writes result.txt: that is the user's own doing, so it is put aside for the comparison.
    lab.train()
    (lab.root / "result.txt").write_text("before")
    lab.write({"train.py": SCRIPT.format(more='flor.log("half", total / 2)')})
    changed = picture(lab)
    with lab.open() as workspace:
        workspace.discover()
        assert workspace.propagation("half")
        report = workspace.answer(Question(("half",)))
    (answer,) = report.cells
    assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence

    after = picture(lab)
    assert after == changed
    for name in ("index", "refs", "head", "config", "worktrees", "stash", "reflog", "staged"):
        assert after[name] == before[name], name
    assert (lab.root / "result.txt").read_text() == "before", "a replay wrote into the user's folder"

    ignored = (lab.root / ".flor" / ".gitignore").read_text()
    assert ignored == "*\n"
    versions = lab.git("for-each-ref", "--format=%(objectname)", "refs/flor").split()
    assert versions
    for version in versions:
        held = lab.git("ls-tree", "-r", "--name-only", version).splitlines()
        assert ".env" not in held, "a secret was kept in a version"
        assert not any(name.startswith((".flor", "data/")) for name in held)


def test_a_replay_that_writes_through_a_link_to_the_users_data_is_stopped(lab: Lab) -> None:
    script = """\
import flor_dagster as flor
for epoch in flor.loop("epoch", range(2)):
    with open("data/big.bin", {mode!r}) as file:
        size = len(file.read()) if {mode!r} == "rb" else file.write(b"overwritten")
    flor.log("size", size)
    {more}
"""
    lab.write({"data/big.bin": "x" * 3_000_000})
    lab.commit({"train.py": script.format(mode="wb", more=""), ".gitignore": "data/\n"})
    lab.train()
    Path(lab.root / "data" / "big.bin").write_text("y" * 3_000_000)
    os.utime(lab.root / "data" / "big.bin", (0, 0))  # else it is left out: the run can't have read it
    lab.write({"train.py": script.format(mode="wb", more='flor.log("asked", size + 1)')})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",))).cells
    assert answer.cell.status == "failed"
    assert "may not write the user's file" in "\n".join(answer.cell.detail["tail"])
    assert (lab.root / "data" / "big.bin").read_text() == "y" * 3_000_000
