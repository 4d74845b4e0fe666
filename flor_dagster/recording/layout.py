"""Where a project's files lie, found without git: the repository's root and its `.flor/` folder."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from flor_dagster.errors import StoreError

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
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        # What trainings log, their code and their arguments are nobody else's to read; whoever shares a home says so by its mode.
        with contextlib.suppress(FileExistsError):
            home.mkdir(mode=0o700)
    ignore = home / ".gitignore"
    if not ignore.exists():
        temporary = home / f".gitignore.{os.getpid()}"
        temporary.write_text("*\n", encoding="utf-8")
        temporary.replace(ignore)
    return home


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def is_name(text: object) -> bool:
    """Whether an id or a name that was given, or read from a file, is a name in a folder and leads nowhere else."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def name_in(folder: Path, name: object, what: str) -> Path:
    """The path of a name in a folder.

    Args:
        folder: where it lies.
        name: what was given, or read from a file.
        what: what it should be the name of, for the message.

    Raises:
        StoreError: it is none.
    """
    if not is_name(name):
        raise StoreError(
            f"{str(name)[:100]!r} is no name of {what}: letters, digits, `_`, `.` and `-` make one, 100 at most"
        )
    return folder / str(name)


def path_in(folder: Path, relative: object, what: str) -> Path:
    """A path below a folder that a file names.

    Args:
        folder: it must lie below it.
        relative: what was read.
        what: what it should be, for the message.

    Raises:
        StoreError: it is absolute, leads out of the folder, or goes through a link.
    """
    if not is_below(relative):
        raise StoreError(f"{str(relative)[:200]!r} is no path of {what} below {folder}: it was not followed")
    path = folder
    for part in str(relative).split("/"):
        path = path / part
        if path.is_symlink():
            raise StoreError(f"{path}, which should be {what}, is a link: it was not followed")
    return path


def is_below(relative: object) -> bool:
    """Whether a path that a file names is relative, normalised and leads out of no folder."""
    parts = relative.split("/") if isinstance(relative, str) else [""]
    return "\0" not in str(relative) and not any(part in ("", ".", "..") for part in parts)


def runs_folder(home: Path) -> Path:
    """The folder with one sub-folder per training run."""
    return home / "runs"


def run_folder(home: Path, run_id: str) -> Path:
    """One training run's folder: journals, version, lock."""
    return name_in(home / "runs", run_id, "a training run")


def replay_folder(home: Path, replay_id: str) -> Path:
    """One replay's folder: plan, journals, the child's output."""
    return name_in(home / "replays", replay_id, "a replay")


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
