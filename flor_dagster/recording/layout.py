"""Where a project's files lie, found without git: the repository's root and its `.flor/` folder."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

NO_COMMIT = "nogit000"


def _where_it_began() -> Path:
    """Where the process began: a script may have gone elsewhere before it imports this package.

    The interpreter makes the script's path absolute at once; what it was given as is what the path ends in.
    """
    given = sys.argv[0].removeprefix("./") if sys.argv else ""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if isinstance(file, str) and given and not given.startswith(os.sep) and file.endswith(f"{os.sep}{given}"):
        folder = file[: -len(given) - 1] or os.sep
        if os.path.isdir(folder):  # noqa: PTH112 - before every training
            return Path(folder)
    return Path.cwd()


# A script's own name may be relative to it.
_began_in = _where_it_began()


def began_in(folder: str) -> None:
    """Say where the program begins, in a process that was forked for it somewhere else."""
    global _began_in
    _began_in = Path(folder)


def beginning() -> Path:
    """The working directory that the program began in."""
    return _began_in


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


def relative_file(file: str, root: Path, folders: dict[str, str] | None = None) -> str:
    """A source file as the journal names it: relative to the repository where it lies in it, else absolute.

    Args:
        file: its path.
        root: the repository, resolved.
        folders: real paths of folders that were looked up before; for many files at once.
    """
    try:
        path = real_file(file, folders if folders is not None else {})
    except (ValueError, OSError):
        return file
    top = str(root)
    return path[len(top) + 1 :] if path.startswith(top + os.sep) else file


def real_file(file: str, folders: dict[str, str]) -> str:
    """The path of a file without links; each folder's is looked up once.

    Args:
        file: its path; a relative one begins where the process began.
        folders: what is known; it grows.
    """
    # Texts, not `Path`s: a process has thousands of modules, and this runs before every training and replay.
    whole = file if file.startswith(os.sep) else f"{_began_in}{os.sep}{file}"
    folder, _, name = whole.rpartition(os.sep)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder or os.sep)
    path = f"{folders[folder].rstrip(os.sep)}{os.sep}{name}"
    try:
        linked = stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        linked = False
    return os.path.realpath(path) if linked or name in ("", ".", "..") else path
