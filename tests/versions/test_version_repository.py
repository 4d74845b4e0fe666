"""What is read of a repository is what its commits hold."""

import os
import subprocess

import pytest

from flor_dagster.errors import NoRepositoryError, SnapshotError, SourceSyntaxError
from flor_dagster.versions import Repository
from flor_dagster.versions.repository import blob_id
from flor_dagster.versions.snapshot import snapshot


def test_the_repository_around_a_file_is_found(repo):
    found = Repository.find(repo.root / "pkg/model.py")
    assert found.root == repo.root
    assert found.common_dir == found.git_dir == repo.root / ".git"
    assert Repository.find(repo.root / "pkg/not/there.py").root == repo.root


def test_a_linked_work_tree_shares_the_common_directory(repo):
    linked = repo.root.parent / "linked"
    repo.git("worktree", "add", "-q", str(linked))
    found = Repository(linked)
    assert found.root == linked
    assert found.common_dir == repo.root / ".git"
    assert found.git_dir == repo.root / ".git/worktrees/linked"


def test_no_repository_is_a_sentence_that_says_what_to_do(tmp_path):
    with pytest.raises(NoRepositoryError, match="git init"):
        Repository.find(tmp_path)


def test_head_and_files(repo):
    found = Repository(repo.root)
    head = repo.git("rev-parse", "HEAD").strip()
    assert found.head() == head
    assert found.resolve("main") == found.resolve(head[:8]) == head
    assert found.files(head) == ("pkg/model.py", "train.py")
    assert found.blob_ids(head)["train.py"] == blob_id(b"print('training')\n")


def test_before_the_first_commit_there_is_no_head(make_repo):
    found = Repository(make_repo().root)
    assert found.head() is None
    assert found.first_parent_versions() == ()


def test_a_commit_that_is_not_there_is_named(repo):
    found = Repository(repo.root)
    with pytest.raises(SnapshotError, match=r"deadbeef.*not in the repository"):
        found.files("deadbeef" * 5)
    with pytest.raises(SnapshotError, match="no-such-branch"):
        found.read("no-such-branch", "train.py")
    assert not found.has("deadbeef" * 5)


def test_source_is_decoded_as_python_does(repo):
    repo.write("latin.py", "# -*- coding: latin-1 -*-\nname = 'é'\r\n".encode("latin-1"))
    repo.write("bom.py", b"\xef\xbb\xbfx = 1\n")
    repo.write("bad.py", b"x = '\xff'\n")
    head = repo.commit("encodings")
    found = Repository(repo.root)
    assert found.read(head, "latin.py") == "# -*- coding: latin-1 -*-\nname = 'é'\r\n"
    assert found.read(head, "bom.py") == "x = 1\n"
    assert found.read(head, "none.py") is None
    assert found.read(head, "pkg") is None
    with pytest.raises(SourceSyntaxError, match=r"bad\.py"):
        found.read(head, "bad.py")


def test_bytes_are_the_bytes_of_the_commit(repo):
    repo.write("data.bin", bytes(range(256)) + b"\n\n")
    assert Repository(repo.root).read_bytes(repo.commit("data"), "data.bin") == bytes(range(256)) + b"\n\n"


def test_a_symlink_is_followed_inside_the_version(repo):
    (repo.root / "pkg/link.py").symlink_to("../train.py")
    (repo.root / "outside.py").symlink_to("/etc/passwd")
    (repo.root / "loop.py").symlink_to("loop.py")
    head = repo.commit("links")
    found = Repository(repo.root)
    assert found.read(head, "pkg/link.py") == "print('training')\n"
    assert found.read(head, "outside.py") is None
    assert found.read(head, "loop.py") is None


def test_the_users_file_as_it_lies_on_disk(repo):
    repo.write("train.py", "on = 'disk'\n")
    assert Repository(repo.root).worktree_source("train.py") == "on = 'disk'\n"
    assert Repository(repo.root).worktree_source("none.py") is None


def test_odd_names_come_through(repo):
    names = {"new\nline.py", "tab\t.py", "模型.py", os.fsdecode(b"latin-\xe9.py")}
    for name in names:
        repo.write(name, f"name = {name!r}\n".encode(errors="surrogateescape"))
    head = repo.commit("odd")
    found = Repository(repo.root)
    assert names <= set(found.files(head))
    assert all(found.read_bytes(head, name) for name in names)


def test_a_version_of_uncommitted_code_is_described_by_its_base(repo):
    found = Repository(repo.root)
    head = repo.git("rev-parse", "HEAD").strip()
    repo.write("train.py", "changed\n")
    version = snapshot(repo.root).commit
    assert found.describe(head)[0] == "first"
    assert found.describe(version) == ("first + uncommitted changes", found.describe(head)[1])
    assert (found.is_uncommitted(version), found.is_uncommitted(head)) == (True, False)
    assert found.base(version) == found.base(head) == head


def test_history(repo):
    found = Repository(repo.root)
    first = found.head()
    repo.write("train.py", "second\n")
    second = repo.commit("second")
    repo.git("mv", "train.py", "fit.py")
    third = repo.commit("third")
    assert found.first_parent_versions() == (third, second, first)
    assert found.first_parent_versions(second) == (second, first)
    assert found.is_ancestor(first, third)
    assert found.is_ancestor(first, first)
    assert not found.is_ancestor(third, first)
    repo.write("fit.py", "second\nand more\n")
    repo.write("odd\nname.py", "odd = 1\n")
    fourth = repo.commit("fourth")
    repo.git("mv", "odd\nname.py", "odd 2.py")
    fifth = repo.commit("fifth")
    assert found.log_path("fit.py") == (
        (fourth, "fit.py"),
        (third, "fit.py"),
        (second, "train.py"),
        (first, "train.py"),
    )
    assert found.log_path("odd 2.py") == ((fifth, "odd 2.py"), (fourth, "odd\nname.py"))
    assert found.log_path("never.py") == ()


def test_kept_versions(repo):
    found = Repository(repo.root)
    assert found.kept_versions() == ()
    clean = snapshot(repo.root).commit
    repo.write("train.py", "changed\n")
    dirty = snapshot(repo.root).commit
    assert set(found.kept_versions()) == {clean, dirty}


def test_loaded_files_are_compared_with_the_version(repo):
    repo.write(".gitattributes", "crlf.py text eol=crlf\n")
    repo.write("crlf.py", b"a = 1\r\n")
    version = snapshot(repo.root).commit
    found = Repository(repo.root)

    def on_disk(*names):
        return {name: blob_id((repo.root / name).read_bytes()) for name in names}

    assert found.compare_loaded(version, on_disk("train.py", "pkg/model.py", "crlf.py")) == []
    repo.write("train.py", "edited while it ran\n")
    repo.write("late.py")
    repo.write("crlf.py", b"a = 2\r\n")
    loaded = on_disk("train.py", "pkg/model.py", "crlf.py", "late.py")
    assert found.compare_loaded(version, loaded) == ["crlf.py", "late.py", "train.py"]


def test_a_module_read_through_a_link_is_compared_by_what_it_points_at(repo):
    (repo.root / "pkg/linked.py").symlink_to("../train.py")
    found = Repository(repo.root)
    version = snapshot(repo.root).commit
    assert found.compare_loaded(version, {"pkg/linked.py": blob_id(b"print('training')\n")}) == []
    assert found.compare_loaded(version, {"pkg/linked.py": blob_id(b"edited")}) == ["pkg/linked.py"]


def test_many_contents_at_once(repo):
    repo.write("empty.py", "")
    repo.write("lines.bin", b"blob 3\n\n\x00\n")
    head = repo.commit("more")
    found = Repository(repo.root)
    ids = found.blob_ids(head)
    contents = found.read_blobs(ids.values())
    assert {path: contents[name] for path, name in ids.items()} == {
        path: content for path, (_, content) in repo.tree(head).items()
    }
    assert found.read_blobs([]) == {}
    with pytest.raises(SnapshotError, match="deadbeef"):
        found.read_blobs(["deadbeef" * 5])


def test_a_bare_repository_can_be_read(repo, tmp_path):
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(repo.root), str(bare)], check=True)
    found = Repository(bare)
    assert found.bare
    assert found.read(found.resolve("HEAD"), "train.py") == "print('training')\n"


def test_reading_writes_nothing(repo):
    (repo.root / "train.py").touch()
    before = repo.fingerprint()
    found = Repository(repo.root)
    head = found.head()
    assert head is not None
    found.entries(head)
    found.read(head, "train.py")
    found.describe(head)
    found.log_path("train.py")
    found.compare_loaded(head, {"train.py": "0" * 40})
    assert repo.fingerprint() == before


def test_sha256_repositories(tmp_path):
    root = tmp_path / "wide"
    subprocess.run(["git", "init", "-q", "--object-format=sha256", str(root)], check=True)
    (root / "train.py").write_text("x = 1\n")
    version = snapshot(root).commit
    found = Repository(root)
    assert len(version) == 64
    assert found.compare_loaded(version, {"train.py": blob_id(b"x = 1\n", 64)}) == []
    assert found.compare_loaded(version, {"train.py": blob_id(b"x = 1\n")}) == []
