"""Git repositories of the tests' own, and a fingerprint of all that belongs to the user."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest


class UserRepo:
    """A repository as a user has it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=cwd or self.root,
            capture_output=True,
            check=False,
            text=True,
            errors="surrogateescape",
        )
        assert answer.returncode == 0, f"git {arguments}: {answer.stderr}"
        return answer.stdout

    def write(self, name: str, content: str | bytes = "x = 1\n") -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def commit(self, message: str = "a change", *names: str) -> str:
        self.git("add", *(names or ("-A",)))
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD").strip()

    def tree(self, commit: str) -> dict[str, tuple[str, bytes]]:
        """Path -> (mode, content) of a commit; the content of a submodule is its commit's id."""
        rows = subprocess.run(
            ["git", "ls-tree", "-r", "-z", commit], cwd=self.root, capture_output=True, check=True
        ).stdout
        found = {}
        for row in rows.split(b"\0")[:-1]:
            facts, name = row.split(b"\t", 1)
            mode, kind, blob = facts.decode().split(" ")
            content = blob.encode()
            if kind == "blob":
                content = subprocess.run(
                    ["git", "cat-file", "blob", blob], cwd=self.root, capture_output=True, check=True
                ).stdout
            found[os.fsdecode(name)] = (mode, content)
        return found

    def fingerprint(self) -> dict[str, object]:
        """Every file with its times, all of .git but objects and refs/flor, and what git says of it."""
        facts: dict[str, object] = {}
        for folder, folders, files in os.walk(self.root):
            here = Path(folder)
            if here.name == "objects" or here.as_posix().endswith("refs/flor"):
                folders.clear()
                continue
            for name in files + [name for name in folders if (here / name).is_symlink()]:
                file = here / name
                status = file.lstat()
                content = os.readlink(file).encode() if file.is_symlink() else _bytes(file)
                # Every git that reads a split index freshens the time of its shared part.
                time = 0 if name.startswith("sharedindex.") else status.st_mtime_ns
                facts[str(file)] = (status.st_mode, time, hashlib.sha256(content).hexdigest())
        commands = (
            ("status", "--porcelain=v2", "--branch", "--ignored", "-z"),
            ("worktree", "list", "--porcelain"),
            ("stash", "list"),
            ("for-each-ref", "refs/heads", "refs/tags", "refs/remotes", "refs/stash"),
            ("config", "--local", "--list"),
            ("ls-files", "-s", "-v", "-z"),
        )
        for command in commands:
            facts[" ".join(command)] = self.git("--no-optional-locks", *command)
        return facts


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except PermissionError:
        return b"unreadable"


@pytest.fixture(autouse=True)
def _plain_git(tmp_path_factory, monkeypatch):
    """No settings of the machine's: what a test needs it sets."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text(
        "[user]\n\tname = A User\n\temail = user@example.org\n[init]\n\tdefaultBranch = main\n"
        '[protocol "file"]\n\tallow = always\n[core]\n\tautocrlf = false\n'
    )
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@pytest.fixture
def make_repo(tmp_path):
    def make(name: str = "project") -> UserRepo:
        root = tmp_path / name
        root.mkdir(parents=True)
        repo = UserRepo(root)
        repo.git("init", "-q")
        return repo

    return make


@pytest.fixture
def repo(make_repo) -> UserRepo:
    """One commit: train.py and pkg/model.py."""
    repo = make_repo()
    repo.write("train.py", "print('training')\n")
    repo.write("pkg/model.py", "layers = 2\n")
    repo.commit("first")
    return repo
