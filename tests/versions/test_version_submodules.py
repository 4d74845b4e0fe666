"""A submodule's files ran, too: what was uncommitted in it is part of the version, and comes back."""

import shutil

import pytest

from flor_dagster.versions import Clone
from flor_dagster.versions.snapshot import snapshot


@pytest.fixture
def library(make_repo):
    library = make_repo("library")
    library.write("lib.py", "x = 1\n")
    library.commit()
    return library


@pytest.fixture
def project(repo, library):
    repo.git("submodule", "add", "-q", "--name", "a name of its own", str(library.root), "libs/sub")
    repo.commit("submodule")
    return repo


def checked_out(repo, version, tmp_path, name="out"):
    checkout = Clone.open(repo.root, tmp_path / "cache").checkout(version.commit, tmp_path / name)
    assert checkout.missing == ()
    return checkout.path


def test_a_clean_submodule_keeps_its_commit_and_the_version_is_head(project, library, tmp_path):
    version = snapshot(project.root)
    assert project.tree(version.commit)["libs/sub"] == (
        "160000",
        library.git("rev-parse", "HEAD").strip().encode(),
    )
    assert (version.dirty, version.approximate, version.excluded) == (False, (), ())
    assert (checked_out(project, version, tmp_path) / "libs/sub/lib.py").read_text() == "x = 1\n"


def test_uncommitted_files_of_a_submodule_are_part_of_the_version_and_nothing_in_it_is_touched(
    project, tmp_path
):
    inner = project.root / "libs/sub"
    (inner / "lib.py").write_text("x = 2\n")
    (inner / "new.py").write_text("new = 1\n")
    (inner / ".env").write_text("KEY=1\n")
    before = project.fingerprint()
    inner_head = project.git("rev-parse", "HEAD", cwd=inner)
    version = snapshot(project.root)
    assert project.fingerprint() == before
    assert project.git("rev-parse", "HEAD", cwd=inner) == inner_head
    assert version.dirty
    assert dict(version.excluded) == {"libs/sub/.env": "looks like a secret (.env)"}
    assert snapshot(project.root).commit == version.commit
    out = checked_out(project, version, tmp_path)
    assert (out / "libs/sub/lib.py").read_text() == "x = 2\n"
    assert (out / "libs/sub/new.py").read_text() == "new = 1\n"


def test_the_submodules_version_outlives_its_work_tree_and_git_gc(project, tmp_path):
    inner = project.root / "libs/sub"
    (inner / "lib.py").write_text("x = 2\n")
    version = snapshot(project.root)
    project.git("checkout", "-q", "--", ".", cwd=inner)
    project.git("gc", "-q", "--prune=now", cwd=inner)
    project.git("submodule", "deinit", "-q", "-f", "libs/sub")
    out = checked_out(project, version, tmp_path)
    assert (out / "libs/sub/lib.py").read_text() == "x = 2\n"


def test_a_new_commit_in_a_submodule_makes_the_version_dirty(project):
    inner = project.root / "libs/sub"
    (inner / "lib.py").write_text("x = 3\n")
    project.git("commit", "-qam", "inside", cwd=inner)
    version = snapshot(project.root)
    assert version.dirty
    assert (
        project.tree(version.commit)["libs/sub"][1]
        == project.git("rev-parse", "HEAD", cwd=inner).strip().encode()
    )


def test_submodules_of_submodules(project, make_repo, tmp_path):
    deep = make_repo("deep")
    deep.write("deep.py", "d = 1\n")
    deep.commit()
    inner = project.root / "libs/sub"
    project.git("submodule", "add", "-q", str(deep.root), "deep", cwd=inner)
    (inner / "deep/deep.py").write_text("d = 2\n")
    version = snapshot(project.root)
    assert version.approximate == ()
    assert (checked_out(project, version, tmp_path) / "libs/sub/deep/deep.py").read_text() == "d = 2\n"


def test_a_training_inside_a_submodule_is_recorded_with_the_submodules_version(project, tmp_path):
    inner = project.root / "libs/sub"
    (inner / "lib.py").write_text("x = 4\n")
    version = snapshot(inner)
    assert version.root == inner
    out = Clone.open(inner, tmp_path / "cache").checkout(version.commit, tmp_path / "out").path
    assert (out / "lib.py").read_text() == "x = 4\n"


def test_a_submodule_that_is_not_checked_out_keeps_its_commit(project):
    project.git("submodule", "deinit", "-q", "-f", "libs/sub")
    version = snapshot(project.root)
    assert (version.dirty, version.approximate) == (False, ())


def test_a_submodule_that_can_not_be_kept_makes_the_version_approximate_and_says_so(project):
    (project.root / "libs/sub/lib.py").write_text("x = 5\n")
    shutil.rmtree(project.root / ".git/modules/a name of its own/refs")
    version = snapshot(project.root)
    ((path, reason),) = version.approximate
    assert path == "libs/sub/"
    assert "commit alone" in reason
