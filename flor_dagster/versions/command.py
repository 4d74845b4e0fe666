"""One git command, run so that nothing of the user's settings misleads it and nothing of the user's is written."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flor_dagster.errors import FlorError, NoRepositoryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from git import Git

# A git hook, `git rebase --exec` or a wrapper hands these to its children, and so to a training started from there:
# they would point our commands at another repository, index or object store. Settings (GIT_CONFIG_*) stay.
_MISLEADING = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_QUARANTINE_PATH",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_GRAFT_FILE",
    "GIT_SHALLOW_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_CEILING_DIRECTORIES",
    "GIT_DEFAULT_HASH",
    "GIT_ATTR_SOURCE",
    "GIT_GLOB_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
)

_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",  # else even `git status` in a submodule rewrites an index
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",  # a partial clone's git asks the network for what it lacks; 2.44 and later obey
    "GIT_LITERAL_PATHSPECS": "1",
}

_SETTINGS = {
    "core.hooksPath": "/dev/null",  # post-index-change, reference-transaction and their like are the user's
    "core.fsmonitor": "false",  # every file is looked at, and no daemon is started
    "core.untrackedCache": "false",
    "core.splitIndex": "false",  # else a shared index appears in the user's git directory
    "core.logAllRefUpdates": "false",
    "core.filesRefLockTimeout": "10000",
    "core.packedRefsTimeout": "10000",
    "core.safecrlf": "false",  # `true` would refuse files with mixed line ends
    "core.quotepath": "false",
    "core.fsync": "loose-object,reference",
    "core.fsyncMethod": "batch",
    "advice.addEmbeddedRepo": "false",
    "commit.gpgsign": "false",
    "i18n.commitEncoding": "UTF-8",
    "gc.auto": "0",
    "maintenance.auto": "false",
}

_FLAGS = tuple(part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}"))


_BORROWED: dict[str, list[Path]] = {}
"""Repository to folders with objects of versions that it lacks: kept beside it, or given back by the log store."""

# What writes must not find them: it would leave out of the repository what it takes for being there.
_READING = frozenset(
    [
        "cat-file",
        "config",
        "diff-tree",
        "log",
        "ls-tree",
        "merge-base",
        "read-tree",
        "rev-list",
        "rev-parse",
        "show",
    ]
)

_NO_GIT = "git is not installed, or not on PATH: versions of the code can't be kept."
_NOT_FOUND_BY_ENV = 127


class GitError(FlorError):
    """A git command failed; the message holds the command and the last lines that git printed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a git command gave back."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """The output as text without its last line end; bytes that are no UTF-8 survive as surrogates."""
        return os.fsdecode(self.stdout.removesuffix(b"\n"))

    @property
    def paths(self) -> list[str]:
        """The parts of a NUL-separated output."""
        return [os.fsdecode(part) for part in self.stdout.split(b"\0") if part]


def borrow(repository: Path, objects: Path) -> None:
    """From now on, let this process's commands in a repository find objects in a folder of ours, too, once it is there."""
    folders = _BORROWED.setdefault(str(repository), [])
    if objects not in folders:
        folders.append(objects)


def borrowed(repository: Path) -> list[Path]:
    """The folders whose objects are lent to a repository, of those that are there."""
    return [folder for folder in _BORROWED.get(str(repository), ()) if folder.is_dir()]


def alternates(folders: Iterable[Path]) -> dict[str, str]:
    """The variable by which git finds objects in further folders."""
    return {"GIT_ALTERNATE_OBJECT_DIRECTORIES": ":".join(quoted(folder, ":") for folder in folders)}


def quoted(path: Path, separator: str = "") -> str:
    r"""A path as git reads it in a list of object folders: quoted like a C string where it needs to be."""
    text = str(path)
    if text.isprintable() and not text.startswith(('"', "#")) and not (separator and separator in text):
        return text
    escaped = (
        text.replace("\\", "\\\\")
        .replace('"', '\\"')
        .replace("\n", "\\n")
        .replace("\t", "\\t")
        .replace("\r", "\\r")
    )
    return f'"{escaped}"'


def run(
    where: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    check: bool = True,
) -> Answer:
    """Run one git command in a folder.

    Args:
        where: The folder that git starts in.
        *arguments: What follows `git`, settings of ours excepted.
        environment: Variables added to those of this process.
        stdin: What git reads.
        check: Raise where git fails; else the caller looks at `status`.

    Raises:
        NoRepositoryError: git is not installed, or the folder does not exist.
        GitError: git failed and `check` is true.
    """
    if not where.is_dir():
        raise NoRepositoryError(f"The folder {where} does not exist (any more).")
    given = environment or {}
    own = "GIT_INDEX_FILE" in given or "GIT_ALTERNATE_OBJECT_DIRECTORIES" in given
    if arguments[0] in _READING and not own and (lent := borrowed(where)):
        environment = {**given, **alternates(lent)}
    wrapper, not_found = _wrapper()
    command: list[str] = ["git", *_FLAGS, *arguments]
    misleading = [name for name in _MISLEADING if name in os.environ]
    if misleading:
        # GitPython can only add variables. `env` takes them away without a change to this process's own.
        command = [
            "env",
            *(part for name in misleading for part in ("-u", name)),
            *_assigned(environment),
            *command,
        ]
    with tempfile.TemporaryFile() as source:
        if stdin is not None:
            source.write(stdin)
            source.seek(0)
        try:
            status, stdout, stderr = wrapper(where).execute(
                command,
                istream=source,
                with_extended_output=True,
                with_exceptions=False,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
                env={**_ENVIRONMENT, **_locale(), **(environment or {})},
            )
        except not_found as error:
            raise NoRepositoryError(_NO_GIT) from error
    if misleading and status == _NOT_FOUND_BY_ENV:
        raise NoRepositoryError(_NO_GIT)
    answer = Answer(int(status), _as_bytes(stdout), str(stderr))
    if check and answer.status != 0:
        raise GitError(f"`git {' '.join(arguments[:6])}` failed in {where}: {last_lines(answer.stderr)}")
    return answer


def last_lines(stderr: str, count: int = 4) -> str:
    """The last lines that git printed, in one line."""
    lines = [line.strip() for line in stderr.strip().splitlines() if line.strip()]
    return "; ".join(lines[-count:]) or "git said nothing"


def _wrapper() -> tuple[type[Git], type[Exception]]:
    """GitPython's command wrapper; slow to import, and needed by nobody who only imports the package."""
    name = "GIT_PYTHON_REFRESH"
    before = os.environ.get(name)
    os.environ[name] = "quiet"  # a missing git is told in our words, when it is called
    try:
        from git import Git
        from git.exc import GitCommandNotFound
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
    return Git, GitCommandNotFound


def _locale() -> dict[str, str]:
    """Messages in English, since we read some of them; all else as the user has it, for filters that `git add` runs."""
    characters = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or "C"
    return {"LC_ALL": "", "LANGUAGE": "", "LC_MESSAGES": "C", "LC_CTYPE": characters}


def _assigned(environment: Mapping[str, str] | None) -> list[str]:
    """Variables that we set and also take away: `env -u X X=value` sets them again."""
    return [f"{key}={value}" for key, value in (environment or {}).items() if key in _MISLEADING]


def _as_bytes(output: str | bytes) -> bytes:
    return output if isinstance(output, bytes) else os.fsencode(output)
