"""Where a project's files lie, found without git: the repository's root and its `.flor/` folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

NO_COMMIT = "nogit000"

# Where the process began: a script's own name may be relative to it, and the script may go elsewhere.
_began_in = Path.cwd()


def began_in(folder: str) -> None:
    """Say where the program begins, in a process that was forked for it somewhere else."""
    global _began_in
    _began_in = Path(folder)


@dataclass(frozen=True, slots=True)
class Place:
    """A git repository as the file system shows it.

    Args:
        root: the top of this work tree, resolved.
        home: the `.flor/` folder, one for all linked work trees.
    """

    root: Path
    home: Path


def find_place(start: Path) -> Place | None:
    """The repository around `start`, or None. `FLOR_HOME` moves the home."""
    try:
        start = start.resolve()
    except OSError:
        return None
    for folder in (start, *start.parents):
        git = folder / ".git"
        if git.is_dir():
            return Place(folder, _home(folder))
        if git.is_file():
            return Place(folder, _home(_main_tree(folder, git)))
    return None


def place_without_git(folder: Path) -> Place:
    """Where a run outside any repository is kept: `.flor/` in its own folder."""
    folder = folder.resolve()
    return Place(folder, _home(folder))


def _home(default_parent: Path) -> Path:
    moved = os.environ.get("FLOR_HOME")
    return Path(moved).expanduser().resolve() if moved else default_parent / ".flor"


def _main_tree(folder: Path, git_file: Path) -> Path:
    """The folder whose `.flor/` a linked work tree shares; a submodule has its own."""
    text = git_file.read_text(encoding="utf-8", errors="replace").strip()
    git_dir = (folder / text.removeprefix("gitdir:").strip()).resolve()
    common = git_dir / "commondir"
    if not common.is_file():
        return folder
    common_dir = (git_dir / common.read_text(encoding="utf-8").strip()).resolve()
    return common_dir.parent if common_dir.name == ".git" else common_dir


def ensure_home(home: Path) -> Path:
    """Make the home, which ignores itself by a `.gitignore` of its own."""
    home.mkdir(parents=True, exist_ok=True)
    ignore = home / ".gitignore"
    if not ignore.exists():
        temporary = home / f".gitignore.{os.getpid()}"
        temporary.write_text("*\n", encoding="utf-8")
        temporary.replace(ignore)
    return home


def runs_folder(home: Path) -> Path:
    """The folder with one sub-folder per training run."""
    return home / "runs"


def run_folder(home: Path, run_id: str) -> Path:
    """One training run's folder: journals, version, lock."""
    return home / "runs" / run_id


def replay_folder(home: Path, replay_id: str) -> Path:
    """One replay's folder: plan, journals, the child's output."""
    return home / "replays" / replay_id


def checkpoints_folder(home: Path) -> Path:
    """The checkpoint store: `objects/` by content, `manifests/` by run."""
    return home / "checkpoints"


def relative_file(file: str, root: Path) -> str:
    """A source file as the journal names it: relative to the repository where it lies in it, else absolute."""
    try:
        path = (_began_in / file).resolve()
        return path.relative_to(root).as_posix()
    except (ValueError, OSError):
        return file
