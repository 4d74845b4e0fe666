"""The versions between two versions, one after the other, and what each step changed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flor_dagster.versions.command import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from flor_dagster.versions.repository import Repository


@dataclass(frozen=True, slots=True)
class Step:
    """What differs between a version and the next one of a lineage.

    `changed` are paths of the first of the two that the second has not, or not so; `renames` maps paths of the first to
    paths of the second.
    """

    changed: frozenset[str] = frozenset()
    renames: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Lineage:
    """Commits from a newer version to an older one; `steps` has one entry less.

    The first `turn` steps go back in time, from a commit to its parent, the others forward: the older version may lie on
    a branch that the newer one left behind.
    """

    commits: tuple[str, ...]
    steps: tuple[Step, ...]
    turn: int


def lineage_between(repository: Repository, newer: str, older: str) -> Lineage | None:
    """The way from a version to another one, over their nearest common ancestor.

    At a merge the way follows the first parent, if it leads there. Versions with uncommitted code hang on the commit
    that they were based on.

    Args:
        repository: the user's repository.
        newer: full id of the commit to start at.
        older: full id of the commit to end at.

    Returns:
        The way, None where the two have no common history.
    """
    if newer == older:
        return Lineage((newer,), (), 0)
    answer = run(repository.root, "merge-base", newer, older, check=False)
    base = answer.text.split("\n")[0].strip() if answer.status == 0 else ""
    if not base:
        return None
    back = _way(repository.root, newer, base)
    forward = _way(repository.root, older, base)
    if back is None or forward is None:
        return None
    commits = (*back, *reversed(forward[:-1]))
    return Lineage(commits, _steps(repository.root, commits), len(back) - 1)


def _way(root: Path, commit: str, ancestor: str) -> tuple[str, ...] | None:
    """Commits from one back to its ancestor, both included."""
    if commit == ancestor:
        return (commit,)
    answer = run(root, "rev-list", "--parents", "--ancestry-path", f"{ancestor}..{commit}", check=False)
    if answer.status != 0:
        return None
    parents = {line.split()[0]: line.split()[1:] for line in answer.text.splitlines()}
    way = [commit]
    while way[-1] != ancestor:
        older = next((p for p in parents.get(way[-1], ()) if p == ancestor or p in parents), None)
        if older is None:
            return None
        way.append(older)
    return tuple(way)


def _steps(root: Path, commits: Sequence[str]) -> tuple[Step, ...]:
    """What each commit has other than the next one: one process, however many there are."""
    pairs = list(itertools.pairwise(commits))
    asked = "".join(f"{a} {b}\n" for a, b in pairs).encode()
    answer = run(root, "diff-tree", "--stdin", "-r", "-M", "-z", "--name-status", stdin=asked)
    changed: dict[str, set[str]] = {}
    renames: dict[str, dict[str, str]] = {}
    for commit, status, first, second in _rows(answer.stdout):
        # git sees the second of a pair as the older one: what it calls new is the first one's.
        if status[0] == "D":
            continue
        path = second or first
        changed.setdefault(commit, set()).add(path)
        if status[0] == "R":
            renames.setdefault(commit, {})[path] = first
    return tuple(Step(frozenset(changed.get(a, ())), renames.get(a, {})) for a, _ in pairs)


def _rows(output: bytes) -> Iterator[tuple[str, str, str, str]]:
    """(commit, status, path, new path of a rename) of `diff-tree --stdin -z --name-status`."""
    fields = [f.decode(errors="surrogateescape") for f in output.split(b"\0")]
    commit = ""
    at = 0
    while at < len(fields) - 1:
        word = fields[at]
        if len(word) in (40, 64):
            commit, at = word, at + 1
        elif word[:1] in ("R", "C"):
            yield commit, word, fields[at + 1], fields[at + 2]
            at += 3
        else:
            yield commit, word, fields[at + 1], ""
            at += 2
