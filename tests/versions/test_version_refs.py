"""The lock that a killed git left costs no version: neither to keep one nor to drop one."""

import pytest

from flor_dagster.errors import SnapshotError
from flor_dagster.versions import refs
from flor_dagster.versions.collecting import default_home, drop_versions, note_home
from flor_dagster.versions.repository import Repository
from flor_dagster.versions.snapshot import snapshot


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(refs, "WAIT_SECONDS", 0.2)


@pytest.fixture
def lock(repo):
    """A version that was dropped, and the lock of its ref, as a git that was killed in between leaves it."""
    repo.write("train.py", "uncommitted\n")
    commit = snapshot(repo.root).commit
    repo.git("update-ref", "-d", f"refs/flor/versions/{commit}")
    lock = repo.root / f".git/refs/flor/versions/{commit}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    return lock


def test_a_version_is_kept_past_the_lock(repo, lock):
    before = repo.fingerprint()
    version = snapshot(repo.root)
    assert version.commit == lock.stem
    assert repo.git("rev-parse", f"refs/flor/versions/{version.commit}").strip() == version.commit
    assert not lock.exists()
    assert repo.fingerprint() == before


def test_versions_are_dropped_past_the_lock(repo, lock):
    lock.unlink()
    dropped = snapshot(repo.root).commit
    lock.touch()
    home = repo.root / ".flor"
    home.mkdir()
    assert drop_versions(Repository(repo.root), home, []).dropped == (dropped,)
    assert Repository(repo.root).kept_versions() == ()


def test_a_lock_that_somebody_holds_is_left(repo, lock, monkeypatch):
    real = refs._update

    def meanwhile(repository, lines):
        answer = real(repository, lines)
        lock.unlink()
        lock.write_text("another git, that came after\n")
        return answer

    monkeypatch.setattr(refs, "_update", meanwhile)
    with pytest.raises(SnapshotError, match=r"the ref of version .* could not be written"):
        snapshot(repo.root)
    assert lock.read_text() == "another git, that came after\n"


def test_what_fails_at_once_takes_no_lock_away(repo, lock, monkeypatch):
    monkeypatch.setattr(refs, "WAIT_SECONDS", 60.0)
    answer = refs.update_refs(Repository(repo.root), [f"update refs/flor/versions/{lock.stem} nonsense"])
    assert answer.status != 0
    assert lock.exists()


def test_a_home_elsewhere_is_noted_past_the_lock(repo, tmp_path):
    elsewhere = tmp_path / "home"
    elsewhere.mkdir()
    repository = Repository(repo.root)
    assert elsewhere != default_home(repository)
    note_home(repository, elsewhere)
    (name,) = repo.git("for-each-ref", "--format=%(refname)", "refs/flor/homes").split()
    repo.git("update-ref", "-d", name)
    lock = repo.root / f".git/{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    note_home(repository, elsewhere)
    assert repo.git("for-each-ref", "--format=%(refname)", "refs/flor/homes").split() == [name]
