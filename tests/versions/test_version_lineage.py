"""The way from one version to another one: along first parents, over merges, branches and uncommitted code."""

from __future__ import annotations

from pathlib import Path

import pytest

from flor_dagster.versions import Repository
from flor_dagster.versions.lineage import lineage_between
from flor_dagster.versions.snapshot import snapshot
from tests.versions.conftest import UserRepo


@pytest.fixture
def line(repo: UserRepo) -> list[str]:
    """Four commits; the third renames the script, newest last."""
    repo.write("train.py", "\n".join(f"step({n})" for n in range(30)))
    commits = [repo.commit("first")]
    repo.write("notes.md", "words")
    commits.append(repo.commit("second"))
    repo.git("mv", "train.py", "main.py")
    commits.append(repo.commit("third"))
    repo.write("main.py", "\n".join(f"step({n})" for n in range(31)))
    commits.append(repo.commit("fourth"))
    return commits


def test_the_way_back_is_the_history(repo: UserRepo, line: list[str]) -> None:
    found = lineage_between(Repository(repo.root), line[3], line[0])
    assert found is not None
    assert found.commits == tuple(reversed(line))
    assert found.turn == 3
    assert [set(s.changed) for s in found.steps] == [{"main.py"}, {"main.py"}, {"notes.md"}]
    assert [dict(s.renames) for s in found.steps] == [{}, {"main.py": "train.py"}, {}]


def test_a_version_is_its_own_history(repo: UserRepo, line: list[str]) -> None:
    found = lineage_between(Repository(repo.root), line[1], line[1])
    assert found is not None
    assert (found.commits, found.steps) == ((line[1],), ())


def test_a_branch_that_was_left_is_reached_over_the_common_ancestor(repo: UserRepo, line: list[str]) -> None:
    repo.git("checkout", "-q", "-b", "side", line[1])
    repo.write("train.py", "side()\n")
    side = repo.commit("on the side")
    found = lineage_between(Repository(repo.root), line[3], side)
    assert found is not None
    assert found.commits == (line[3], line[2], line[1], side)
    assert found.turn == 2
    assert found.steps[-1].changed == {"train.py"}


def test_a_merge_is_followed_along_its_first_parent_where_that_leads_there(
    repo: UserRepo, line: list[str]
) -> None:
    repo.git("checkout", "-q", "-b", "side", line[2])
    repo.write("other.py", "x = 1\n")
    side = repo.commit("on the side")
    repo.git("checkout", "-q", "-")
    repo.git("checkout", "-q", "-b", "together", line[3])
    repo.git("merge", "-q", "--no-ff", "-m", "together", side)
    merged = repo.git("rev-parse", "HEAD").strip()
    repository = Repository(repo.root)
    first = lineage_between(repository, merged, line[0])
    second = lineage_between(repository, merged, side)
    assert first is not None
    assert second is not None
    assert first.commits == (merged, line[3], line[2], line[1], line[0])
    assert second.commits == (merged, side)


def test_uncommitted_code_hangs_on_the_commit_that_it_was_based_on(repo: UserRepo, line: list[str]) -> None:
    repo.write("main.py", "\n".join(f"step({n})" for n in range(32)))
    version = snapshot(repo.root).commit
    found = lineage_between(Repository(repo.root), version, line[2])
    assert found is not None
    assert found.commits == (version, line[3], line[2])


def test_histories_that_share_nothing_have_no_way(repo: UserRepo, line: list[str]) -> None:
    repo.git("checkout", "-q", "--orphan", "new")
    other = repo.commit("another beginning")
    assert lineage_between(Repository(repo.root), line[3], other) is None


def test_paths_of_any_spelling_are_read(repo: UserRepo, tmp_path: Path) -> None:
    del tmp_path
    repo.write("naïve file.py", "x = 1\n")
    first = repo.commit("first")
    repo.write("naïve file.py", "x = 2\n")
    second = repo.commit("second")
    found = lineage_between(Repository(repo.root), second, first)
    assert found is not None
    assert found.steps[0].changed == {"naïve file.py"}
