"""A version holds exactly the code that ran, and making one touches nothing of the user's."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flor_dagster.errors import NoRepositoryError, SnapshotError
from flor_dagster.versions import snapshot as snapshot_module
from flor_dagster.versions.snapshot import main, snapshot

ROOT_USER = os.geteuid() == 0


def content(repo, version):
    return {name: value for name, (_, value) in repo.tree(version.commit).items()}


def reasons(version):
    return dict(version.excluded)


def test_a_clean_tree_is_head_itself(repo):
    head = repo.git("rev-parse", "HEAD").strip()
    version = snapshot(repo.root)
    assert (version.commit, version.head, version.branch, version.dirty) == (head, head, "main", False)
    assert version.tree == repo.git("rev-parse", "HEAD^{tree}").strip()
    assert repo.git("rev-parse", f"refs/flor/versions/{head}").strip() == head
    assert (version.excluded, version.warnings) == ((), ())


def test_uncommitted_code_is_a_commit_on_top_of_head(repo):
    repo.write("train.py", "print('changed')\n")
    repo.write("new.py")
    (repo.root / "pkg/model.py").unlink()
    version = snapshot(repo.root)
    assert version.dirty
    assert content(repo, version) == {"train.py": b"print('changed')\n", "new.py": b"x = 1\n"}
    assert (
        repo.git("rev-parse", f"{version.commit}^").strip()
        == version.head
        == repo.git("rev-parse", "HEAD").strip()
    )


def test_nothing_of_the_users_is_touched(repo):
    repo.write(".gitignore", "*.log\nout/\n")
    repo.commit("ignore")
    repo.write("train.py", "print('stashed')\n")
    repo.git("stash")
    repo.git("tag", "v1")
    repo.git("branch", "other")
    repo.git("worktree", "add", "-q", "../linked")
    repo.write("staged.py", "staged = 1\n")
    repo.git("add", "staged.py")
    repo.write("pkg/model.py", "layers = 3\n")
    repo.git("add", "pkg/model.py")
    repo.write("pkg/model.py", "layers = 4\n")
    repo.write("untracked.py")
    repo.write("noise.log")
    repo.write("out/result.txt")
    repo.write(".env", "TOKEN=1\n")
    (repo.root / "train.py").touch()  # stat data that the index does not have: a refresh would write it
    before = repo.fingerprint()
    version = snapshot(repo.root)
    assert repo.fingerprint() == before
    assert content(repo, version)["pkg/model.py"] == b"layers = 4\n"
    assert content(repo, version)["staged.py"] == b"staged = 1\n"
    assert set(content(repo, version)) == {
        ".gitignore",
        "train.py",
        "pkg/model.py",
        "staged.py",
        "untracked.py",
    }


def test_users_hooks_do_not_run(repo):
    marks = repo.root.parent / "hook-ran"
    for name in ("post-index-change", "reference-transaction", "post-checkout", "pre-commit", "post-commit"):
        hook = repo.write(f".git/hooks/{name}", f"#!/bin/sh\necho {name} >> '{marks}'\n")
        hook.chmod(0o755)
    repo.write("train.py", "changed\n")
    snapshot(repo.root)
    assert not marks.exists()


def test_from_within_a_users_hook(repo, tmp_path):
    """A training started by a hook: git hands its own index and directory to all that it starts."""
    out = tmp_path / "version.json"
    program = f"cd {Path(__file__).parents[2]} && {sys.executable} -m flor_dagster.versions.snapshot"
    hook = f"#!/bin/sh\n{program} --root '{repo.root}' --out '{out}'\n"
    repo.write(".git/hooks/pre-commit", hook).chmod(0o755)
    repo.write("train.py", "staged\n")
    repo.git("add", "train.py")
    repo.write("train.py", "on disk\n")
    repo.git("commit", "-qm", "with a hook")
    commit = json.loads(out.read_text())["commit"]
    assert repo.tree(commit)["train.py"][1] == b"on disk\n"
    assert repo.git("show", "HEAD:train.py") == "staged\n"
    assert repo.git("status", "--porcelain") == " M train.py\n"


def test_users_git_settings_do_not_mislead(repo):
    for key, value in {
        "commit.gpgsign": "true",
        "core.logAllRefUpdates": "always",
        "core.safecrlf": "true",
        "core.autocrlf": "input",
        "core.untrackedCache": "true",
        "status.showUntrackedFiles": "no",
        "log.showSignature": "true",
        "i18n.commitEncoding": "ISO-8859-1",
        "core.fsmonitor": "/bin/false",
        "user.useConfigOnly": "true",
    }.items():
        repo.git("config", key, value)
    repo.write("new.py", "a\r\nb\n")
    version = snapshot(repo.root)
    assert content(repo, version)["new.py"] == b"a\nb\n"
    assert b"encoding" not in repo.git("cat-file", "commit", version.commit).encode()
    assert not (repo.root / ".git/logs/refs/flor").exists()


def test_variables_of_a_calling_git_do_not_mislead(repo, make_repo, monkeypatch):
    other = make_repo("other")
    other.write("wrong.py")
    other.commit()
    before = other.fingerprint()
    repo.write("new.py")
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.root))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other.root / ".git/index"))
    monkeypatch.setenv("GIT_PREFIX", "sub/")
    monkeypatch.setenv("GIT_QUARANTINE_PATH", str(other.root / ".git/objects"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other.root / ".git/objects"))
    version = snapshot(repo.root)
    for name in [name for name in os.environ if name.startswith("GIT_") and name != "GIT_CONFIG_NOSYSTEM"]:
        monkeypatch.delenv(name)
    assert set(content(repo, version)) == {"train.py", "pkg/model.py", "new.py"}
    assert other.fingerprint() == before


def test_detached_head(repo):
    repo.git("checkout", "-q", "--detach")
    repo.write("train.py", "detached\n")
    version = snapshot(repo.root)
    assert version.branch is None
    assert content(repo, version)["train.py"] == b"detached\n"
    assert (repo.root / ".git/HEAD").read_text().strip() == version.head


def test_before_the_first_commit(make_repo):
    repo = make_repo()
    repo.write("train.py")
    before = repo.fingerprint()
    version = snapshot(repo.root)
    assert (version.head, version.branch, version.dirty) == (None, "main", True)
    assert content(repo, version) == {"train.py": b"x = 1\n"}
    assert repo.fingerprint() == before
    assert snapshot(repo.root).commit == version.commit


def test_an_empty_repository(make_repo):
    version = snapshot(make_repo().root)
    assert version.head is None
    assert version.dirty


def test_the_linked_work_tree_that_is_asked_for(repo):
    linked = repo.root.parent / "linked"
    repo.git("worktree", "add", "-q", "-b", "side", str(linked))
    (linked / "train.py").write_text("linked\n")
    repo.write("train.py", "main tree\n")
    before = repo.fingerprint()
    version = snapshot(linked)
    assert content(repo, version)["train.py"] == b"linked\n"
    assert (version.branch, version.root) == ("side", linked)
    assert repo.fingerprint() == before


def test_a_repository_inside_is_named(repo, make_repo):
    inner = make_repo("project/vendored")
    inner.write("code.py")
    inner.commit()
    version = snapshot(repo.root)
    assert reasons(version) == {"vendored/": "a git repository of its own"}
    assert not version.dirty


def test_from_a_sub_folder_the_whole_tree(repo):
    repo.write("train.py", "changed\n")
    repo.write("pkg/new.py")
    version = snapshot(repo.root / "pkg")
    assert version.root == repo.root
    assert set(content(repo, version)) == {"train.py", "pkg/model.py", "pkg/new.py"}


def test_symlinks_and_modes(repo):
    repo.write("tool.sh", "#!/bin/sh\n").chmod(0o755)
    (repo.root / "to-file").symlink_to("train.py")
    (repo.root / "to-folder").symlink_to("pkg")
    (repo.root / "broken").symlink_to("nowhere")
    (repo.root / "train.py").chmod(0o755)
    tree = repo.tree(snapshot(repo.root).commit)
    assert tree["tool.sh"][0] == tree["train.py"][0] == "100755"
    assert tree["to-file"] == ("120000", b"train.py")
    assert tree["to-folder"] == ("120000", b"pkg")
    assert tree["broken"] == ("120000", b"nowhere")


def test_a_file_that_became_a_folder_and_the_other_way(repo):
    (repo.root / "train.py").unlink()
    repo.write("train.py/__init__.py")
    shutil.rmtree(repo.root / "pkg")
    repo.write("pkg", "now a file\n")
    assert set(content(repo, snapshot(repo.root))) == {"train.py/__init__.py", "pkg"}


def test_odd_file_names(repo):
    names = {
        "with space.py",
        "ünïcødé 模型.py",
        "new\nline.py",
        'quo"te.py',
        "tab\t.py",
        "*.py",
        ":(top)x.py",
        "-n.py",
        " lead",
    }
    for name in names:
        repo.write(name)
    (repo.root / os.fsdecode(b"latin-\xe9.py")).write_text("x = 1\n")
    version = snapshot(repo.root)
    assert set(content(repo, version)) == names | {"train.py", "pkg/model.py", os.fsdecode(b"latin-\xe9.py")}


def test_line_ends_are_stored_as_git_add_stores_them(repo):
    repo.write(".gitattributes", "*.py text eol=crlf\n*.bin -text\n")
    repo.write("crlf.py", "a\r\nb\r\n")
    repo.write("raw.bin", b"a\r\nb\r\n")
    version = snapshot(repo.root)
    assert content(repo, version)["crlf.py"] == b"a\nb\n"
    assert content(repo, version)["raw.bin"] == b"a\r\nb\r\n"


def test_filters_run_as_git_add_runs_them(repo):
    repo.git("config", "filter.shout.clean", "tr a-z A-Z")
    repo.git("config", "filter.shout.smudge", "tr A-Z a-z")
    repo.write(".gitattributes", "*.txt filter=shout\n")
    repo.write("words.txt", "quiet\n")
    assert content(repo, snapshot(repo.root))["words.txt"] == b"QUIET\n"


def test_filters_see_the_users_locale(repo, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    repo.git("config", "filter.locale.clean", 'cat >/dev/null; echo "${LC_ALL:-$LC_CTYPE}"')
    repo.write(".gitattributes", "*.txt filter=locale\n")
    repo.write("words.txt", "any\n")
    assert content(repo, snapshot(repo.root))["words.txt"] == b"C.UTF-8\n"


def test_intended_to_be_added(repo):
    repo.write("later.py", "later = 1\n")
    repo.git("add", "-N", "later.py")
    before = repo.fingerprint()
    assert content(repo, snapshot(repo.root))["later.py"] == b"later = 1\n"
    assert repo.fingerprint() == before


def test_a_merge_conflict_is_taken_as_it_lies_on_disk(repo):
    repo.git("checkout", "-q", "-b", "side")
    repo.write("train.py", "side\n")
    repo.commit("side")
    repo.git("checkout", "-q", "main")
    repo.write("train.py", "main\n")
    repo.commit("main")
    subprocess.run(["git", "merge", "side"], cwd=repo.root, capture_output=True, check=False)
    on_disk = (repo.root / "train.py").read_bytes()
    assert b"<<<<" in on_disk
    before = repo.fingerprint()
    assert content(repo, snapshot(repo.root))["train.py"] == on_disk
    assert repo.fingerprint() == before


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_files_hidden_from_git_are_seen(repo, flag):
    repo.write("secrets.yaml", "committed: 1\n")
    repo.commit("secrets")
    repo.git("update-index", flag, "train.py", "secrets.yaml")
    repo.write("train.py", "what really ran\n")
    repo.write("secrets.yaml", "token: real\n")
    before = repo.fingerprint()
    version = snapshot(repo.root)
    assert content(repo, version)["train.py"] == b"what really ran\n"
    assert content(repo, version)["secrets.yaml"] == b"committed: 1\n"
    assert "secret" in reasons(version)["secrets.yaml"]
    assert repo.fingerprint() == before


def test_what_a_sparse_checkout_does_not_have_the_training_did_not_have(repo):
    repo.write("other/big.py")
    repo.commit("other")
    repo.git("sparse-checkout", "set", "--cone", "--sparse-index", "pkg")
    assert not (repo.root / "other").exists()
    assert not snapshot(repo.root).dirty
    repo.write("train.py", "changed\n")
    before = repo.fingerprint()
    version = snapshot(repo.root)
    assert set(content(repo, version)) == {"train.py", "pkg/model.py"}
    assert version.dirty
    assert repo.fingerprint() == before


def test_a_split_index_stays_split(repo):
    repo.git("update-index", "--split-index")
    repo.write("train.py", "changed\n")
    shared = sorted(file.name for file in (repo.root / ".git").glob("sharedindex.*"))
    before = (repo.root / ".git/index").read_bytes()
    assert content(repo, snapshot(repo.root))["train.py"] == b"changed\n"
    assert sorted(file.name for file in (repo.root / ".git").glob("sharedindex.*")) == shared
    assert (repo.root / ".git/index").read_bytes() == before


def test_an_edit_in_the_same_tick_of_the_clock_is_seen(repo):
    # Same size and same time as the index: git tells the two apart only where the index looks no newer than the file.
    repo.git("config", "core.trustctime", "false")
    file = repo.write("train.py", "print('aaaaaaaa')\n")
    past = 1_600_000_000 * 10**9
    os.utime(file, ns=(past, past))
    repo.git("add", "train.py")
    os.utime(repo.root / ".git/index", ns=(past, past))
    with file.open("r+b") as opened:
        opened.write(b"print('bbbbbbbb')\n")
    os.utime(file, ns=(past, past))
    assert content(repo, snapshot(repo.root))["train.py"] == b"print('bbbbbbbb')\n"


def test_secrets_are_left_out_and_named(repo):
    for name in (".env", "conf/prod.env", "id_rsa", "server.pem", "gcp-credentials.json", ".aws/config"):
        repo.write(name, "secret")
    repo.write(".env.example", "TOKEN=\n")
    version = snapshot(repo.root)
    assert set(content(repo, version)) == {"train.py", "pkg/model.py", ".env.example"}
    assert set(reasons(version)) == {
        ".env",
        "conf/prod.env",
        "id_rsa",
        "server.pem",
        "gcp-credentials.json",
        ".aws/config",
    }
    assert all(reason.startswith("looks like a secret") for reason in reasons(version).values())
    assert "conf/prod.env" in content(repo, snapshot(repo.root, secret_patterns=["id_rsa", "*.pem"]))


def test_a_tracked_file_stays_whatever_its_name_and_size(repo):
    repo.write(".env", "PORT=1\n")
    repo.write("table.csv", "0" * 3000)
    repo.commit("tracked")
    repo.write(".env", "PORT=2\n")
    repo.write("table.csv", "1" * 3000)
    version = snapshot(repo.root, max_file_bytes=1000)
    assert content(repo, version)[".env"] == b"PORT=2\n"
    assert content(repo, version)["table.csv"] == b"1" * 3000


def test_big_files_are_left_out_and_named(repo):
    repo.write("data.bin", b"0" * 2001)
    repo.write("fits.bin", b"0" * 2000)
    version = snapshot(repo.root, max_file_bytes=2000)
    assert "fits.bin" in content(repo, version)
    assert "data.bin" not in content(repo, version)
    assert reasons(version)["data.bin"].startswith("larger than")


def test_many_untracked_files_together_lose_the_biggest(repo):
    for number in range(4):
        repo.write(f"part{number}.bin", bytes([number]) * (1000 + number))
    version = snapshot(repo.root, max_total_bytes=2500)
    assert {name for name in content(repo, version) if name.startswith("part")} == {"part0.bin", "part1.bin"}
    assert set(reasons(version)) == {"part2.bin", "part3.bin"}


def test_ignored_files_are_left_out_and_named(repo):
    repo.write(".gitignore", "data/\n*.ckpt\n__pycache__/\n")
    repo.write("data/a/b.csv")
    repo.write("best.ckpt")
    repo.write("pkg/__pycache__/model.pyc")
    version = snapshot(repo.root)
    assert set(content(repo, version)) == {"train.py", "pkg/model.py", ".gitignore"}
    assert reasons(version) == {"best.ckpt": "ignored by git", "data/": "ignored by git"}


@pytest.mark.skipif(ROOT_USER, reason="root can read every file")
def test_unreadable_files_are_named(repo):
    repo.write("locked.py").chmod(0)
    assert "locked.py" in reasons(snapshot(repo.root))


def test_a_file_that_git_refuses_is_found_and_named(repo):
    repo.git("config", "filter.broken.clean", "false")
    repo.git("config", "filter.broken.required", "true")
    repo.write(".gitattributes", "*.broken filter=broken\n")
    for number in range(5):
        repo.write(f"fine{number}.py")
    repo.write("one.broken")
    version = snapshot(repo.root)
    assert {f"fine{number}.py" for number in range(5)} < set(content(repo, version))
    assert reasons(version)["one.broken"].startswith("git could not take it")


def test_a_tracked_file_that_git_refuses_stays_as_committed(repo):
    repo.write("one.broken", "committed\n")
    repo.commit("one")
    repo.git("config", "filter.broken.clean", "false")
    repo.git("config", "filter.broken.required", "true")
    repo.write(".gitattributes", "*.broken filter=broken\n")
    repo.write("one.broken", "changed now\n")
    repo.write("train.py", "changed\n")
    version = snapshot(repo.root)
    assert content(repo, version)["one.broken"] == b"committed\n"
    assert content(repo, version)["train.py"] == b"changed\n"
    assert "as committed" in reasons(version)["one.broken"]


@pytest.mark.parametrize("tracked", [False, True])
def test_our_own_folder_is_never_part(repo, tracked):
    repo.write(".flor/flor.db", "rows")
    if tracked:
        repo.git("add", "-f", ".flor")
        repo.git("commit", "-qm", "by mistake")
    assert set(content(repo, snapshot(repo.root))) == {"train.py", "pkg/model.py"}


def test_identical_content_is_the_same_commit(repo):
    repo.write("train.py", "one\n")
    first = snapshot(repo.root)
    repo.write("train.py", "two\n")
    second = snapshot(repo.root)
    repo.write("train.py", "one\n")
    time.sleep(1.1)  # a date from the clock would show
    third = snapshot(repo.root)
    assert first.commit == third.commit != second.commit


@pytest.mark.parametrize("step", ["_commit", "_keep_reachable"])
def test_a_git_gc_that_takes_what_no_ref_keeps_yet_costs_no_version(repo, monkeypatch, step):
    repo.write("train.py", "print('changed')\n")
    real = getattr(snapshot_module, step)
    times = []

    def after_a_collection(*arguments):
        if not times:
            repo.git("gc", "-q", "--prune=now")
        times.append(step)
        return real(*arguments)

    monkeypatch.setattr(snapshot_module, step, after_a_collection)
    version = snapshot(repo.root)
    assert len(times) == 2
    assert content(repo, version)["train.py"] == b"print('changed')\n"
    assert version.approximate == ()


def test_a_ref_is_taken_back_where_objects_of_its_version_stay_away(repo, monkeypatch):
    repo.write("train.py", "print('changed')\n")
    real = snapshot_module._keep_reachable

    def lacking_a_file(index, commit, head):
        blob = repo.git("rev-parse", f"{commit}:train.py").strip()
        (repo.root / ".git/objects" / blob[:2] / blob[2:]).unlink()
        real(index, commit, head)

    monkeypatch.setattr(snapshot_module, "_keep_reachable", lacking_a_file)
    with pytest.raises(SnapshotError, match=r"objects of version [0-9a-f]{40} are gone again"):
        snapshot(repo.root)
    assert repo.git("for-each-ref", "refs/flor") == ""
    monkeypatch.undo()
    assert content(repo, snapshot(repo.root))["train.py"] == b"print('changed')\n"


def test_git_gc_keeps_the_version(repo):
    repo.write("train.py", "soon gone\n")
    repo.write("new.py", "also\n")
    version = snapshot(repo.root)
    repo.git("checkout", "-q", "--", ".")
    (repo.root / "new.py").unlink()
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    assert content(repo, version)["train.py"] == b"soon gone\n"
    assert content(repo, version)["new.py"] == b"also\n"


def test_a_clean_version_survives_an_amended_commit(repo):
    version = snapshot(repo.root)
    repo.git("commit", "-q", "--amend", "-m", "other")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    assert "train.py" in content(repo, version)


def test_several_snapshots_at_once(repo):
    repo.write("train.py", "changed\n")
    for number in range(30):
        repo.write(f"many/{number}.py", f"n = {number}\n")
    before = repo.fingerprint()
    commits = []
    threads = [threading.Thread(target=lambda: commits.append(snapshot(repo.root).commit)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(commits) == 4
    assert len(set(commits)) == 1
    assert repo.fingerprint() == before
    assert repo.git("fsck", "--no-progress", "--connectivity-only", commits[0]) == ""


def test_while_the_user_holds_the_index_lock(repo):
    repo.write(".git/index.lock", "")
    repo.write("train.py", "changed\n")
    assert content(repo, snapshot(repo.root))["train.py"] == b"changed\n"
    assert (repo.root / ".git/index.lock").exists()


def test_files_that_did_not_change_are_not_read(repo):
    """An unchanged file whose bytes can't be got any more: only git's stat cache can say that it is unchanged."""
    file = repo.write("data.py", "value = 1\n")
    repo.commit("data")
    past = 1_600_000_000 * 10**9
    os.utime(file, ns=(past, past))
    repo.git("status")  # the index now has this time, and is newer than it
    with file.open("r+b") as opened:
        opened.write(b"VALUE")
    os.utime(file, ns=(past, past))
    repo.git("config", "core.trustctime", "false")
    assert not snapshot(repo.root).dirty


def test_no_repository_is_a_sentence(tmp_path):
    with pytest.raises(NoRepositoryError, match="not inside a git repository"):
        snapshot(tmp_path)
    with pytest.raises(NoRepositoryError, match="not inside a git repository"):
        snapshot(tmp_path / "nowhere/at/all")


def test_a_bare_repository_has_no_code_to_keep(tmp_path):
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "bare.git")], check=True)
    with pytest.raises(SnapshotError, match="bare"):
        snapshot(tmp_path / "bare.git")


@pytest.mark.skipif(not ROOT_USER, reason="needs to give a folder away")
def test_a_repository_of_another_user_is_not_trusted(repo):
    for folder, _, _ in os.walk(repo.root):
        os.chown(folder, 12345, 12345)
    with pytest.raises(NoRepositoryError, match=r"safe\.directory"):
        snapshot(repo.root)


def test_a_broken_repository_is_a_sentence(repo):
    shutil.rmtree(repo.root / ".git/objects")
    (repo.root / ".git/objects").mkdir()
    repo.write("train.py", "changed\n")
    with pytest.raises(SnapshotError, match="could not be kept"):
        snapshot(repo.root)


def test_no_ref_for_a_clean_tree_is_a_warning_and_for_a_dirty_one_an_error(repo):
    repo.write(".git/refs/flor", "in the way")
    version = snapshot(repo.root)
    assert version.commit == version.head
    assert "no ref keeps it" in version.warnings[0]
    repo.write("train.py", "changed\n")
    with pytest.raises(SnapshotError, match="ref of version"):
        snapshot(repo.root)


def child(root, out):
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "flor_dagster.versions.snapshot",
        "--root",
        str(root),
        "--out",
        str(out),
    ]
    return subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parents[2])


def test_the_child_writes_version_json(repo, tmp_path):
    repo.write(os.fsdecode(b"latin-\xe9.env"), "secret")
    repo.write("train.py", "changed\n")
    out = tmp_path / "version.json"
    answer = child(repo.root, out)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, b"", b"")
    document = json.loads(out.read_text())
    assert document["commit"] == snapshot(repo.root).commit
    assert document["excluded"] == [[os.fsdecode(b"latin-\xe9.env"), "looks like a secret (*.env)"]]
    assert (document["dirty"], document["branch"], document["root"]) == (True, "main", str(repo.root))
    assert document["seconds"] > 0
    assert [file.name for file in tmp_path.iterdir() if "version.json" in file.name] == ["version.json"]


def test_the_child_turns_an_error_into_a_sentence(tmp_path):
    out = tmp_path / "version.json"
    answer = child(tmp_path, out)
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert "not inside a git repository" in json.loads(out.read_text())["error"]


@pytest.mark.parametrize("from_a_hook", [False, True])
def test_without_git_the_child_says_so(repo, tmp_path, monkeypatch, from_a_hook):
    if from_a_hook:
        (tmp_path / "env").symlink_to("/usr/bin/env")
        monkeypatch.setenv("GIT_DIR", str(repo.root / ".git"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert child(repo.root, tmp_path / "version.json").returncode == 0
    assert "git is not installed" in json.loads((tmp_path / "version.json").read_text())["error"]


def test_an_unexpected_error_is_a_sentence_too(repo, tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise ValueError("surprise")

    monkeypatch.setattr("flor_dagster.versions.snapshot.snapshot", fail)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main(["--root", str(repo.root), "--out", str(tmp_path / "v.json")]) == 0
    assert "ValueError: surprise" in json.loads((tmp_path / "v.json").read_text())["error"]


def test_ctrl_c_does_not_lose_the_version(repo, tmp_path):
    """Ctrl-C reaches the whole process group, here while git hands a file to a slow filter."""
    started = tmp_path / "started"
    repo.git("config", "filter.slow.clean", f"touch '{started}'; sleep 0.5; cat")
    repo.git("config", "filter.slow.required", "true")
    repo.write(".gitattributes", "*.slow filter=slow\n")
    repo.write("one.slow")
    out = tmp_path / "version.json"
    command = [
        sys.executable,
        "-m",
        "flor_dagster.versions.snapshot",
        "--root",
        str(repo.root),
        "--out",
        str(out),
    ]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], process_group=0) as process:
        deadline = time.monotonic() + 60
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
    assert repo.tree(json.loads(out.read_text())["commit"])["one.slow"][1] == b"x = 1\n"
