"""An old version on disk is the version, whole or not at all, and the user's repository does not notice."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flor_dagster.errors import NoRepositoryError, ReplayError
from flor_dagster.versions import Clone
from flor_dagster.versions.snapshot import snapshot


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def on_disk(folder):
    found = {}
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != ".git"]
        for name in files + [name for name in folders if (Path(here) / name).is_symlink()]:
            file = Path(here) / name
            key = str(file.relative_to(folder))
            if file.is_symlink():
                found[key] = ("120000", os.readlink(file).encode())
            else:
                found[key] = ("100755" if os.access(file, os.X_OK) else "100644", file.read_bytes())
    return found


def test_a_checkout_has_the_files_of_the_version(repo, cache, tmp_path):
    repo.write("tool.sh", "#!/bin/sh\n").chmod(0o755)
    (repo.root / "link").symlink_to("train.py")
    repo.write("ünï \n.py", "odd = 1\n")
    repo.write("train.py", "print('dirty')\n")
    version = snapshot(repo.root)
    repo.write("train.py", "print('later')\n")
    checkout = Clone.open(repo.root, cache).checkout(version.commit, tmp_path / "out")
    assert (checkout.path, checkout.commit, checkout.missing) == (tmp_path / "out", version.commit, ())
    assert on_disk(tmp_path / "out") == repo.tree(version.commit)


def test_the_users_repository_does_not_notice(repo, cache, tmp_path):
    repo.write("train.py", "dirty\n")
    repo.write(".git/hooks/post-checkout", "#!/bin/sh\ntouch ../../hook-ran\n").chmod(0o755)
    version = snapshot(repo.root)
    before = repo.fingerprint()
    objects = sorted((repo.root / ".git/objects").rglob("*"))
    Clone.open(repo.root, cache).checkout(version.commit, tmp_path / "out")
    assert repo.fingerprint() == before
    assert sorted((repo.root / ".git/objects").rglob("*")) == objects


def test_git_in_old_code_meets_the_checkout(repo, cache, tmp_path):
    head = repo.git("rev-parse", "HEAD").strip()
    repo.write("train.py", "dirty\n")
    out = Clone.open(repo.root, cache).checkout(snapshot(repo.root).commit, tmp_path / "out").path
    assert repo.git("rev-parse", "HEAD", cwd=out).strip() == head
    assert repo.git("status", "--porcelain", cwd=out) == "M  train.py\n"
    before = repo.fingerprint()
    repo.git("add", "-A", cwd=out)
    repo.git("commit", "-qm", "by old code", cwd=out)
    assert repo.fingerprint() == before


def test_a_destination_may_exist_when_it_is_empty(repo, cache, tmp_path):
    commit = snapshot(repo.root).commit
    (tmp_path / "out").mkdir()
    clone = Clone.open(repo.root, cache)
    clone.checkout(commit, tmp_path / "out")
    with pytest.raises(ReplayError, match="holds files"):
        clone.checkout(commit, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(ReplayError, match="holds files"):
        clone.checkout(commit, tmp_path / "file")
    clone.checkout(commit, tmp_path / "deep/er/out")


def test_new_versions_are_visible_at_once(repo, cache, tmp_path):
    clone = Clone.open(repo.root, cache)
    for number in range(3):
        repo.write("train.py", f"n = {number}\n")
        out = clone.checkout(snapshot(repo.root).commit, tmp_path / str(number)).path
        assert (out / "train.py").read_text() == f"n = {number}\n"


def test_linked_work_trees_share_a_clone(repo, cache, make_repo):
    repo.git("worktree", "add", "-q", "../linked")
    assert Clone.open(repo.root, cache).place == Clone.open(repo.root.parent / "linked", cache).place
    assert Clone.open(repo.root, cache).place != Clone.open(make_repo("other").root, cache).place


def test_line_ends_and_filters_are_those_of_the_users_work_tree(repo, cache, tmp_path):
    repo.git("config", "core.autocrlf", "true")
    repo.git("config", "filter.shout.clean", "tr a-z A-Z")
    repo.git("config", "filter.shout.smudge", "tr A-Z a-z")
    repo.write(".git/info/attributes", "*.loud filter=shout\n")
    repo.write("crlf.py", "a\r\nb\r\n")
    repo.write("words.loud", "quiet\r\n")
    out = Clone.open(repo.root, cache).checkout(snapshot(repo.root).commit, tmp_path / "out").path
    assert (out / "crlf.py").read_bytes() == b"a\r\nb\r\n"
    assert (out / "words.loud").read_bytes() == b"quiet\r\n"


def test_attributes_in_the_version_hold_in_every_folder(repo, cache, tmp_path):
    repo.write("a/.gitattributes", "*.txt eol=crlf\n")
    repo.write("a/.first.txt", "one\r\n")
    repo.write("a/z/last.txt", "one\r\n")
    out = Clone.open(repo.root, cache).checkout(snapshot(repo.root).commit, tmp_path / "out").path
    assert (out / "a/.first.txt").read_bytes() == (out / "a/z/last.txt").read_bytes() == b"one\r\n"


def test_submodules_are_filled_from_what_is_here(repo, make_repo, cache, tmp_path):
    library = make_repo("library")
    library.write("lib.py", "lib = 1\n")
    library.commit()
    repo.git("submodule", "add", "-q", str(library.root), "libs/sub")
    repo.commit("submodule")
    commit = snapshot(repo.root).commit
    clone = Clone.open(repo.root, cache)
    out = clone.checkout(commit, tmp_path / "out")
    assert out.missing == ()
    assert (out.path / "libs/sub/lib.py").read_text() == "lib = 1\n"
    repo.git("submodule", "deinit", "-q", "-f", "libs/sub")
    assert clone.checkout(commit, tmp_path / "again").missing == ()
    shutil.rmtree(repo.root / ".git/modules")
    bare = clone.checkout(commit, tmp_path / "bare")
    assert bare.missing == ("libs/sub",)
    assert list((bare.path / "libs/sub").iterdir()) == []


def test_a_repository_that_borrows_objects_itself(repo, cache, tmp_path):
    borrower = tmp_path / "borrower"
    subprocess.run(["git", "clone", "-q", "--shared", str(repo.root), str(borrower)], check=True)
    alternates = borrower / ".git/objects/info/alternates"
    alternates.write_text("../../../project/.git/objects\n")
    out = Clone.open(borrower, cache).checkout(snapshot(borrower).commit, tmp_path / "out").path
    assert (out / "train.py").exists()


def test_shallow_clones_and_odd_folders(repo, cache, tmp_path):
    repo.write("train.py", "second\n")
    repo.commit("second")
    shallow = tmp_path / 'odd "name\n模'
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{repo.root}", str(shallow)], check=True)
    out = Clone.open(shallow, cache).checkout(snapshot(shallow).commit, tmp_path / "out").path
    assert (out / "train.py").read_text() == "second\n"
    assert len(repo.git("log", "--format=%H", cwd=out).split()) == 1


def test_packed_objects(repo, cache, tmp_path):
    repo.write("train.py", "dirty\n")
    commit = snapshot(repo.root).commit
    repo.git("gc", "-q", "--prune=now")
    out = Clone.open(repo.root, cache).checkout(commit, tmp_path / "out").path
    assert (out / "train.py").read_text() == "dirty\n"


def test_a_missing_version_is_named_with_what_to_do(repo, cache, tmp_path):
    with pytest.raises(ReplayError, match=r"version deadbeef.*is not in the repository.*git fetch"):
        Clone.open(repo.root, cache).checkout("deadbeef" * 5, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_moved_repository_is_named_with_what_to_do(repo, cache, tmp_path):
    commit = snapshot(repo.root).commit
    clone = Clone.open(repo.root, cache)
    repo.root.rename(tmp_path / "moved")
    with pytest.raises(ReplayError, match=r"not there.*--project"):
        clone.checkout(commit, tmp_path / "out")
    with pytest.raises(NoRepositoryError, match=r"not there.*--project"):
        Clone.open(repo.root, cache)
    Clone.open(tmp_path / "moved", cache).checkout(commit, tmp_path / "out")


def test_a_failing_filter_leaves_no_half_tree(repo, cache, tmp_path):
    repo.write(".gitattributes", "*.broken filter=broken\n")
    repo.write("a.py")
    repo.write("one.broken")
    commit = repo.commit("all")
    repo.git("config", "filter.broken.smudge", "false")
    repo.git("config", "filter.broken.required", "true")
    with pytest.raises(ReplayError, match=r"one\.broken"):
        Clone.open(repo.root, cache).checkout(commit, tmp_path / "outs/out")
    assert list((tmp_path / "outs").iterdir()) == []


def test_a_killed_checkout_leaves_nothing_that_looks_whole(repo, cache, tmp_path):
    repo.write(".gitattributes", "*.slow filter=slow\n")
    repo.write("one.slow")
    commit = repo.commit("slow")
    repo.git("config", "filter.slow.smudge", "sleep 20; cat")
    code = (
        "import sys; from pathlib import Path; from flor_dagster.versions import Clone\n"
        "Clone.open(Path(sys.argv[1]), Path(sys.argv[2])).checkout(sys.argv[3], Path(sys.argv[4]))"
    )
    arguments = [sys.executable, "-c", code, str(repo.root), str(cache), commit, str(tmp_path / "outs/out")]
    with subprocess.Popen(arguments, cwd=Path(__file__).parents[2], process_group=0) as process:
        for _ in range(1200):
            if list((tmp_path / "outs").glob(".out.partial-*/.gitattributes")):
                break
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    assert [file.name.startswith(".out.partial-") for file in (tmp_path / "outs").iterdir()] == [True]
    repo.git("config", "filter.slow.smudge", "cat")
    Clone.open(repo.root, cache).checkout(commit, tmp_path / "outs/out")
    assert [file.name for file in (tmp_path / "outs").iterdir()] == ["out"]
    assert on_disk(tmp_path / "outs/out") == repo.tree(commit)


def test_many_checkouts_at_once(repo, cache, tmp_path):
    for number in range(30):
        repo.write(f"many/{number}.py", f"n = {number}\n")
    commit = snapshot(repo.root).commit
    wrong = []

    def work(number):
        try:
            out = Clone.open(repo.root, cache).checkout(commit, tmp_path / f"outs/{number}").path
            if on_disk(out) != repo.tree(commit):
                wrong.append(number)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_two_at_once_into_one_place_give_one_whole_tree(repo, cache, tmp_path):
    commit = snapshot(repo.root).commit
    refused = []

    def work():
        try:
            Clone.open(repo.root, cache).checkout(commit, tmp_path / "out")
        except ReplayError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert on_disk(tmp_path / "out") == repo.tree(commit)
    assert len(refused) == 2
    assert all("holds files" in sentence for sentence in refused)
