"""Data that is not in git is reachable in a checkout; secrets, environments and newer code are not."""

import os

import pytest

from flor_dagster.versions import Clone, link_untracked, untracked
from flor_dagster.versions.snapshot import snapshot


@pytest.fixture
def checkout(repo, tmp_path):
    repo.write(".gitignore", "data/\n*.ckpt\n.venv/\ncustom-env/\ngenerated.py\nlogs/\n")
    commit = repo.commit("ignore")
    return Clone.open(repo.root, tmp_path / "cache").checkout(commit, tmp_path / "out").path


def test_small_files_are_copied_and_big_ones_linked(repo, checkout):
    repo.write("data/small.csv", "1,2\n")
    repo.write("data/deep/big.bin", b"0" * (untracked.SMALL_BYTES + 1))
    repo.write("best.ckpt", "weights")
    done = dict(link_untracked(repo.root, checkout))
    assert set(done) == {"best.ckpt", "data/deep/big.bin", "data/small.csv"}
    assert done["data/small.csv"] in {"copy", "reflink"}
    assert (checkout / "data/deep/big.bin").read_bytes() == b"0" * (untracked.SMALL_BYTES + 1)
    if done["data/deep/big.bin"] == "link":
        assert os.readlink(checkout / "data/deep/big.bin") == str(repo.root / "data/deep/big.bin")


def test_a_copy_keeps_the_users_file_from_writes(repo, checkout):
    repo.write("data/small.csv", "1,2\n")
    link_untracked(repo.root, checkout)
    (checkout / "data/small.csv").write_text("changed")
    (checkout / "data/new.csv").write_text("new")
    assert (repo.root / "data/small.csv").read_text() == "1,2\n"
    assert not (repo.root / "data/new.csv").exists()


def test_times_are_kept(repo, checkout):
    file = repo.write("data/small.csv", "1,2\n")
    os.utime(file, ns=(10**18, 10**18))
    link_untracked(repo.root, checkout)
    assert (checkout / "data/small.csv").stat().st_mtime_ns == 10**18


def test_a_folder_of_many_files_is_one_link(repo, checkout, monkeypatch):
    monkeypatch.setattr(untracked, "MAX_FILES", 5)
    for number in range(6):
        repo.write(f"data/{number}.txt")
    assert link_untracked(repo.root, checkout) == (("data/", "link"),)
    assert (checkout / "data/3.txt").read_text() == "x = 1\n"


def test_what_must_never_be_reachable(repo, checkout):
    for name in (
        ".flor/flor.db",
        ".env",
        "data/credentials.json",
        "data/__pycache__/x.pyc",
        ".venv/bin/python",
        "custom-env/pyvenv.cfg",
        "custom-env/lib/x.txt",
        "node_modules/x/y.txt",
        "data/inner/.git/config",
    ):
        repo.write(name)
    repo.write("data/fine.csv")
    assert [name for name, _ in link_untracked(repo.root, checkout)] == ["data/fine.csv"]
    assert not (checkout / ".env").exists()
    assert not (checkout / "custom-env").exists()


def test_code_newer_than_the_version_stays_away_but_generated_code_comes(repo, checkout):
    repo.write("helper.py")
    repo.write("newpkg/helper.py")
    repo.write("newpkg/table.csv")
    repo.write("pkg/generated.py")
    assert [name for name, _ in link_untracked(repo.root, checkout)] == [
        "newpkg/table.csv",
        "pkg/generated.py",
    ]


def test_what_the_version_has_stays(repo, tmp_path):
    repo.write("notes.txt", "then\n")
    out = (
        Clone.open(repo.root, tmp_path / "cache").checkout(snapshot(repo.root).commit, tmp_path / "out").path
    )
    repo.write("notes.txt", "now\n")
    assert link_untracked(repo.root, out) == ()
    assert (out / "notes.txt").read_text() == "then\n"


def test_the_caller_may_skip(repo, checkout):
    repo.write("data/a.csv")
    repo.write("logs/a.log")
    assert [name for name, _ in link_untracked(repo.root, checkout, skip=lambda name: name == "logs/")] == [
        "data/a.csv"
    ]


def test_a_version_with_a_link_where_a_folder_is_now(repo, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (repo.root / "data").symlink_to(outside)
    commit = snapshot(repo.root).commit
    (repo.root / "data").unlink()
    repo.write("data/a.csv")
    out = Clone.open(repo.root, tmp_path / "cache").checkout(commit, tmp_path / "out").path
    assert link_untracked(repo.root, out) == ()
    assert list(outside.iterdir()) == []


def test_links_are_linked_and_broken_ones_left(repo, checkout, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/x.bin").write_text("far")
    (repo.root / "data").symlink_to(tmp_path / "far")
    (repo.root / "broken.ckpt").symlink_to("nowhere")
    assert link_untracked(repo.root, checkout) == (("data", "link"),)
    assert (checkout / "data/x.bin").read_text() == "far"


def test_a_checkout_inside_the_repository_does_not_link_itself(repo, tmp_path):
    commit = snapshot(repo.root).commit
    out = Clone.open(repo.root, repo.root / "cache").checkout(commit, repo.root / "cache/out").path
    repo.write("data.csv")
    assert [name for name, _ in link_untracked(repo.root, out)] == ["data.csv"]


def test_the_users_files_do_not_change(repo, checkout):
    repo.write("data/a.csv")
    repo.write("data/big.bin", b"0" * (untracked.SMALL_BYTES + 1))
    before = repo.fingerprint()
    link_untracked(repo.root, checkout)
    assert repo.fingerprint() == before
