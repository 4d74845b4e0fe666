"""Whatever the user's repository is like, a snapshot and a checkout leave all of it as it was, and give the files back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flor_dagster.versions import Clone
from flor_dagster.versions.snapshot import snapshot
from tests.versions.conftest import UserRepo

Make = Callable[[UserRepo], Path | None]
CASES: dict[str, Make] = {}


def case(make: Make) -> Make:
    CASES[make.__name__.strip("_")] = make
    return make


@case
def _clean(repo: UserRepo) -> None:
    pass


@case
def _staged_unstaged_untracked_and_stashed(repo: UserRepo) -> None:
    repo.write("train.py", "stashed\n")
    repo.git("stash")
    repo.write("pkg/model.py", "staged\n")
    repo.git("add", "pkg/model.py")
    repo.write("pkg/model.py", "on disk\n")
    repo.write("new.py", "untracked\n")


@case
def _detached(repo: UserRepo) -> None:
    repo.git("checkout", "-q", "--detach")
    repo.write("train.py", "detached\n")


@case
def _unborn(repo: UserRepo) -> None:
    repo.git("checkout", "-q", "--orphan", "fresh")
    repo.write("train.py", "unborn\n")


@case
def _sub_folder(repo: UserRepo) -> Path:
    repo.write("pkg/model.py", "from below\n")
    return repo.root / "pkg"


@case
def _linked_work_tree(repo: UserRepo) -> Path:
    linked = repo.root / "trees/linked"
    repo.write(".gitignore", "trees/\n")
    repo.git("worktree", "add", "-q", "-b", "side", str(linked))
    (linked / "train.py").write_text("linked\n")
    return linked


@case
def _merge_in_conflict(repo: UserRepo) -> None:
    repo.git("checkout", "-q", "-b", "side")
    repo.write("train.py", "side\n")
    repo.commit("side")
    repo.git("checkout", "-q", "main")
    repo.write("train.py", "main\n")
    repo.commit("main")
    subprocess.run(["git", "merge", "side"], cwd=repo.root, capture_output=True, check=False)


@case
def _rebase_that_stopped(repo: UserRepo) -> None:
    _merge_in_conflict(repo)
    repo.git("merge", "--abort")
    subprocess.run(["git", "rebase", "side"], cwd=repo.root, capture_output=True, check=False)


@case
def _submodule(repo: UserRepo) -> None:
    library = UserRepo(repo.root.parent / "library")
    library.root.mkdir()
    library.git("init", "-q")
    library.write("lib.py")
    library.commit()
    repo.git("submodule", "add", "-q", str(library.root), "libs")
    (repo.root / "libs/lib.py").write_text("dirty\n")


@case
def _links_and_modes(repo: UserRepo) -> None:
    repo.write("tool.sh", "#!/bin/sh\n").chmod(0o755)
    for name, target in (
        ("a", "train.py"),
        ("b", "pkg"),
        ("c", "nowhere"),
        ("d", "/etc/hostname"),
        ("e", "../outside"),
    ):
        (repo.root / name).symlink_to(target)


@case
def _odd_names(repo: UserRepo) -> None:
    for name in (
        "with space.py",
        "ünï 模.py",
        "new\nline.py",
        'q"uote.py',
        ":(top)x",
        "-n",
        os.fsdecode(b"latin-\xe9.py"),
    ):
        (repo.root / name).write_text("odd\n")


@case
def _sparse_checkout(repo: UserRepo) -> None:
    repo.write("other/big.py")
    repo.commit("other")
    repo.git("sparse-checkout", "set", "--cone", "--sparse-index", "pkg")
    repo.write("train.py", "changed\n")


@case
def _hidden_from_git(repo: UserRepo) -> None:
    repo.git("update-index", "--skip-worktree", "train.py")
    repo.git("update-index", "--assume-unchanged", "pkg/model.py")
    repo.write("train.py", "hidden\n")
    repo.write("pkg/model.py", "hidden too\n")


@case
def _split_index_and_untracked_cache(repo: UserRepo) -> None:
    repo.git("update-index", "--split-index", "--untracked-cache")
    repo.git("status")
    repo.write("train.py", "changed\n")
    repo.write("new.py")


@case
def _file_system_monitor(repo: UserRepo) -> None:
    repo.git("config", "core.fsmonitor", str(repo.root.parent / "monitor"))
    monitor = repo.root.parent / "monitor"
    monitor.write_text(f"#!/bin/sh\ntouch {repo.root.parent}/monitor-ran\nexit 1\n")
    monitor.chmod(0o755)
    repo.write("train.py", "changed\n")


@case
def _index_lock(repo: UserRepo) -> None:
    repo.write("train.py", "changed\n")


@case
def _hooks(repo: UserRepo) -> None:
    for name in ("pre-commit", "post-index-change", "reference-transaction", "post-checkout", "pre-auto-gc"):
        repo.write(f".git/hooks/{name}", f"#!/bin/sh\ntouch '{repo.root}/hook-ran'\n").chmod(0o755)
    repo.write("train.py", "changed\n")


@case
def _shallow_clone(repo: UserRepo) -> Path:
    repo.write("train.py", "second\n")
    repo.commit("second")
    return _cloned(repo, "--depth=1")


@case
def _partial_clone(repo: UserRepo) -> Path:
    repo.git("config", "uploadpack.allowFilter", "true")
    repo.write("big.txt", "old\n")
    repo.commit("old")
    repo.write("big.txt", "new\n")
    repo.commit("new")
    return _cloned(repo, "--filter=blob:none")


@case
def _borrowed_objects(repo: UserRepo) -> Path:
    return _cloned(repo, "--shared", remote=str(repo.root))


def _cloned(repo: UserRepo, option: str, remote: str = "") -> Path:
    place = repo.root / ".flor-test-clone"
    repo.git("clone", "-q", option, remote or f"file://{repo.root}", str(place))
    (place / "train.py").write_text("in the clone\n")
    return place


@case
def _crlf(repo: UserRepo) -> None:
    repo.write(".gitattributes", "crlf.py text eol=crlf\n")
    repo.write("crlf.py", b"a\r\nb\r\n")


def on_disk(root: Path, skip: set[str]) -> dict[str, tuple[str, bytes]]:
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [n for n in folders if n not in {".git", "trees", ".flor-test-clone"}]
        for name in files + [n for n in folders if (Path(folder) / n).is_symlink()]:
            file = Path(folder) / name
            key = str(file.relative_to(root))
            if file.name == ".git" or key in skip:
                continue
            if file.is_symlink():
                found[key] = ("120000", os.readlink(file).encode())
            else:
                found[key] = ("100755" if os.access(file, os.X_OK) else "100644", file.read_bytes())
    return found


@pytest.mark.parametrize("name", CASES)
def test_all_stays_as_it_was_and_the_version_is_what_lies_on_disk(
    repo: UserRepo, tmp_path: Path, name: str
) -> None:
    place = CASES[name](repo) or repo.root
    inner = UserRepo(Path(repo.git("rev-parse", "--show-toplevel", cwd=place).strip()))
    if name == "index_lock":
        repo.write(".git/index.lock", "")
    lock = {"index_lock": [".git/index.lock"]}.get(name, [])
    before = inner.fingerprint() if not lock else _files(repo)
    outer = _files(repo)
    reflog = inner.git("reflog", "--all") if name != "unborn" else ""
    ran = repo.root.parent / "monitor-ran"
    ran.unlink(missing_ok=True)
    version = snapshot(place)
    assert version.approximate == ()
    assert not ran.exists()
    checkout = Clone.open(place, tmp_path / "cache").checkout(version.commit, tmp_path / "out")
    assert (inner.fingerprint() if not lock else _files(repo)) == before
    assert _files(repo) == outer
    assert reflog == (inner.git("reflog", "--all") if name != "unborn" else "")
    assert on_disk(checkout.path, set()) == on_disk(inner.root, set())
    again = snapshot(place)
    assert again.commit == version.commit
    if name not in ("unborn", "shallow_clone"):
        inner.git("gc", "-q", "--prune=now") if not lock else None
        Clone.open(place, tmp_path / "cache").checkout(version.commit, tmp_path / "again")


def _files(repo: UserRepo) -> dict[str, tuple[int, int]]:
    """Every file but objects and our refs, with its times; nothing new may be among them."""
    found = {}
    for folder, folders, files in os.walk(repo.root):
        if Path(folder).name == "objects" or folder.endswith("refs/flor"):
            folders.clear()
            continue
        for name in files:
            status = (Path(folder) / name).lstat()
            if name.startswith("sharedindex."):
                continue  # git's own readers freshen its time
            found[str(Path(folder) / name)] = (status.st_size, status.st_mtime_ns)
    return found


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it may not")
def test_a_repository_that_can_not_be_written_is_a_sentence(repo: UserRepo) -> None:
    repo.write("train.py", "changed\n")
    subprocess.run(["chmod", "-R", "a-w", str(repo.root / ".git")], check=True)
    try:
        from flor_dagster.errors import SnapshotError

        with pytest.raises(SnapshotError, match="could not be kept"):
            snapshot(repo.root)
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(repo.root / ".git")], check=True)


def test_a_full_disk_is_a_sentence_and_leaves_nothing_behind(repo: UserRepo, tmp_path: Path) -> None:
    """The size of files is limited in the child, which git meets as it meets a full disk."""
    import json
    import sys

    repo.write("big.py", os.urandom(300_000).hex())
    repo.git("add", "big.py")
    repo.write("big.py", os.urandom(300_000).hex())
    before = repo.fingerprint()
    out = tmp_path / "version.json"
    program = f"ulimit -f 100; exec {sys.executable} -m flor_dagster.versions.snapshot --root '{repo.root}' --out '{out}'"
    subprocess.run(["sh", "-c", program], cwd=Path(__file__).parents[2], check=True, capture_output=True)
    document = json.loads(out.read_text())
    assert "could not be kept" in document.get("error", "") or any(
        "big.py" in p for p, _ in document["approximate"]
    )
    assert repo.fingerprint() == before
    assert shutil.disk_usage(repo.root).free


def test_a_commit_while_the_snapshot_runs_changes_neither(repo: UserRepo, tmp_path: Path) -> None:
    started = tmp_path / "started"
    repo.git("config", "filter.slow.clean", f"touch '{started}'; sleep 1; cat")
    repo.write(".gitattributes", "*.slow filter=slow\n")
    repo.write("one.slow")
    repo.write("train.py", "changed\n")
    import threading
    import time

    found = []
    thread = threading.Thread(target=lambda: found.append(snapshot(repo.root)))
    thread.start()
    while not started.exists():
        time.sleep(0.01)
    repo.git("commit", "-qam", "meanwhile")
    after = repo.git("rev-parse", "HEAD").strip()
    thread.join()
    assert repo.git("rev-parse", "HEAD").strip() == after
    assert repo.tree(found[0].commit)["train.py"][1] == b"changed\n"
    assert repo.git("status", "--porcelain", "--untracked-files=no") == ""
