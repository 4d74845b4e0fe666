"""The example project's history: read it, and build a git repository from it."""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the project: a tree, its commit's subject and date, and how it was trained."""

    folder: Path
    subject: str
    date: datetime
    trainings: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class History:
    """The project's versions, oldest first, and the newest one, which holds the new statements."""

    author: str
    email: str
    script: str
    versions: tuple[Version, ...]
    newest: Version
    statements: tuple[str, ...]


def load_history(path: Path = HERE / "history.toml") -> History:
    """Read the manifest; the versions' trees lie in `versions/` beside it."""
    manifest = tomllib.loads(path.read_text())

    def version(entry: Mapping[str, Any]) -> Version:
        folder = path.parent / "versions" / entry["folder"]
        return Version(folder, entry["subject"], entry["date"], tuple(entry.get("trainings", ())))

    return History(
        author=manifest["author"],
        email=manifest["email"],
        script=manifest["script"],
        versions=tuple(version(entry) for entry in manifest["versions"]),
        newest=version(manifest["newest"]),
        statements=tuple(manifest["newest"]["statements"]),
    )


class ProjectRepository:
    """The git repository of the example project, built version by version.

    Author, dates and content are fixed, so that every build has the same commits.
    """

    def __init__(self, folder: Path, history: History) -> None:
        self.folder = folder
        self.history = history

    def create(self) -> None:
        """Start an empty repository; whatever was in the folder is deleted."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        self._git("init", "--quiet", "--initial-branch=main")

    def commit(self, version: Version) -> str:
        """Make the files those of `version`, commit them; returns the commit."""
        for path in self.folder.iterdir():
            if path.name in (".git", ".flor"):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        shutil.copytree(
            version.folder, self.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", version.subject, date=version.date)
        return self._git("rev-parse", "HEAD").strip()

    def diff_of_head(self) -> str:
        """What the last commit changed: hunks with one line of context, without the file's header."""
        diff = self._git("diff", "--unified=1", "HEAD~1", "HEAD")
        return diff[diff.index("@@") :]

    def _git(self, *arguments: str, date: datetime | None = None) -> str:
        # The configuration of whoever runs the example (hooks, signing, line endings) must not change its commits.
        environment = os.environ | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        for role in ("AUTHOR", "COMMITTER"):
            environment[f"GIT_{role}_NAME"] = self.history.author
            environment[f"GIT_{role}_EMAIL"] = self.history.email
            if date is not None:
                environment[f"GIT_{role}_DATE"] = date.isoformat()
        command = ["git", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed in {self.folder}:\n{done.stderr}")
        return done.stdout


def build_repository(folder: Path, *, newest: bool = False) -> list[str]:
    """Build the whole history in `folder`; returns the commits, oldest first.

    Args:
        folder: where; it is emptied first.
        newest: also commit the version with the new statements.
    """
    history = load_history()
    repository = ProjectRepository(folder, history)
    repository.create()
    versions = [*history.versions, *([history.newest] if newest else [])]
    return [repository.commit(version) for version in versions]
