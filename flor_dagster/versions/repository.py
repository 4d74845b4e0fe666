"""What a user's repository holds: read, never written."""

from __future__ import annotations

import hashlib
import io
import posixpath
import tokenize
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flor_dagster.errors import NoRepositoryError, SnapshotError, SourceSyntaxError
from flor_dagster.recording.layout import find_place, place_without_git
from flor_dagster.versions.beside import VERSION_REFS, Beside
from flor_dagster.versions.command import Answer, GitError, alternates, borrow, last_lines, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VERSION_EMAIL = "versions@flor.invalid"
"""The author of the commits that hold uncommitted code."""

_MOST_NAMED = 2000
"""So many commits fit on a command line on every system; refs of ours name the others."""

_SYMLINK = "120000"
_SUBMODULE = "160000"


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a version: a file, a symbolic link, or a submodule (whose `id` is a commit of its own)."""

    path: str
    mode: str
    id: str

    @property
    def is_symlink(self) -> bool:
        """The content is the path that the link points at."""
        return self.mode == _SYMLINK

    @property
    def is_submodule(self) -> bool:
        """The content lies in another repository."""
        return self.mode == _SUBMODULE

    @property
    def is_executable(self) -> bool:
        """The file may be executed."""
        return self.mode == "100755"


class Repository:
    """A user's git repository, for reading.

    Args:
        root: The top folder of a work tree (main or linked), or a bare repository.

    Attributes:
        root: The same, resolved.
        git_dir: Where this work tree's HEAD and index lie.
        common_dir: Where objects and refs lie: the same for all linked work trees.
        bare: There is no work tree: a bare repository, or the git directory itself was named.
        beside: The repository of our own beside it, with the versions that are kept there; it need not be there.

    Raises:
        NoRepositoryError: There is no repository, or git refuses to use it.
    """

    def __init__(self, root: Path) -> None:
        found = Path(root).resolve()
        self.bare = False
        try:
            self.root = Path(run(found, "rev-parse", "--show-toplevel").text)
        except GitError as error:
            answer = run(found, "rev-parse", "--is-bare-repository", "--is-inside-git-dir", check=False)
            if "true" not in answer.text.split():
                raise NoRepositoryError(_why_no_repository(found, str(error))) from error
            self.bare = True
            self.root = Path(run(found, "rev-parse", "--absolute-git-dir").text)
        answer = run(found, "rev-parse", "--show-object-format", "--absolute-git-dir").text
        form, git_dir = answer.split("\n", 1)
        self.git_dir = Path(git_dir)
        self.common_dir = Path(run(found, "rev-parse", "--path-format=absolute", "--git-common-dir").text)
        self.beside = Beside.of(self._home(found), form)
        for place in (self.root, self.common_dir):
            borrow(place, self.beside.objects)

    def _home(self, found: Path) -> Path:
        place = None if self.bare else find_place(found)
        if place is None:
            common = self.common_dir
            place = place_without_git(common.parent if common.name == ".git" else common)
        return place.home

    @classmethod
    def find(cls, path: Path) -> Repository:
        """The repository that a file or folder lies in.

        Raises:
            NoRepositoryError: There is none; the message says what to do.
        """
        place = Path(path).absolute()
        while not place.is_dir() and place != place.parent:
            place = place.parent
        return cls(place)

    def __repr__(self) -> str:
        return f"Repository({str(self.root)!r})"

    def git(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> Answer:
        """Run a git command at the top."""
        return run(self.root, *arguments, stdin=stdin, check=check)

    def head(self) -> str | None:
        """The commit that is checked out; None before the first commit."""
        answer = run(self.root, "rev-parse", "--quiet", "--verify", "HEAD^{commit}", check=False)
        return answer.text if answer.status == 0 else None

    def has(self, commit: str) -> bool:
        """Whether the repository holds this commit."""
        return run(self.root, "cat-file", "-e", f"{commit}^{{commit}}", check=False).status == 0

    def lacking(self, commits: Iterable[str], *, lent: bool = True) -> list[str]:
        """Those of some commits that are not here.

        Args:
            commits: ids.
            lent: what the log store gave back counts as being here.
        """
        asked = list(commits)
        stdin = "".join(f"{commit}\n" for commit in asked).encode()
        if not asked:
            return []
        environment = {} if lent else self._beside_alone()
        answer = run(
            self.root, "cat-file", "--batch-check=%(objecttype)", stdin=stdin, environment=environment
        )
        kinds = answer.text.split("\n")
        return [commit for commit, kind in zip(asked, kinds, strict=True) if kind != "commit"]

    def damage(self, commits: Iterable[str]) -> list[str]:
        """What git finds damaged or missing of some commits, and of any object that lies here or beside; in git's words."""
        asked = list(commits)[:_MOST_NAMED]
        arguments = ("fsck", "--no-dangling", "--no-progress", "--no-reflogs", *asked)
        answer = run(self.root, *arguments, environment=self._beside_alone(), check=False)
        if answer.status == 0:
            return []
        lines = [*answer.stderr.splitlines(), *answer.text.splitlines()]
        return [line.strip() for line in lines if line.strip()] or [f"git fsck ended with {answer.status}"]

    def _beside_alone(self) -> dict[str, str]:
        """For a command that is to see what is kept beside, and not what the log store gave back."""
        return alternates([self.beside.objects] if self.beside.exists else [])

    def resolve(self, revision: str) -> str:
        """The full id of a commit named by branch, tag or abbreviation.

        Raises:
            SnapshotError: No commit, or more than one, is called so.
        """
        answer = run(
            self.root,
            "rev-parse",
            "--quiet",
            "--verify",
            "--end-of-options",
            f"{revision}^{{commit}}",
            check=False,
        )
        if answer.status != 0:
            raise SnapshotError(_why_no_commit(revision, self.root))
        return answer.text

    def entries(self, commit: str) -> tuple[Entry, ...]:
        """Every path of a version, in git's order.

        Raises:
            SnapshotError: The commit is not there.
        """
        return _entries(self.root, self._full(commit))

    def files(self, commit: str) -> tuple[str, ...]:
        """The paths of a version's files and symbolic links, with slashes."""
        return tuple(entry.path for entry in self.entries(commit) if not entry.is_submodule)

    def blob_ids(self, commit: str) -> dict[str, str]:
        """Path to git's id of the stored content, for files and symbolic links."""
        return {entry.path: entry.id for entry in self.entries(commit) if not entry.is_submodule}

    def read_bytes(self, commit: str, path: str) -> bytes | None:
        """A file as the version stores it (line ends as git normalised them); None where the version has no such file.

        A symbolic link is followed inside the version.
        """
        entries = _by_path(self.root, self._full(commit))
        for _ in range(8):
            entry = entries.get(path)
            if entry is None or entry.is_submodule:
                return None
            content = _blob(self.common_dir, entry.id)
            if not entry.is_symlink:
                return content
            target = content.decode(errors="surrogateescape")
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        return None

    def read(self, commit: str, path: str) -> str | None:
        """A Python source file of a version, decoded as Python does; None where the version has no such file.

        Line ends stay as they are stored; a byte order mark is dropped.

        Raises:
            SourceSyntaxError: The bytes are not text in the encoding that the file names.
        """
        content = self.read_bytes(commit, path)
        return None if content is None else decode_source(content, f"{path} at {commit[:8]}")

    def read_blobs(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Many stored contents at once, by the ids of `entries` or `blob_ids`: one process, however many there are.

        Raises:
            SnapshotError: One of them is not there.
        """
        wanted = list(dict.fromkeys(ids))
        output = run(
            self.root, "cat-file", "--batch", stdin="".join(f"{name}\n" for name in wanted).encode()
        ).stdout
        found: dict[str, bytes] = {}
        start = 0
        for name in wanted:  # each answer: "<id> blob <size>", the bytes, a line end
            end = output.index(b"\n", start)
            facts = output[start:end].split(b" ")
            if facts[-1] == b"missing":
                raise SnapshotError(f"The content {name} of a version is not in the repository {self.root}.")
            size = int(facts[2])
            found[name] = output[end + 1 : end + 1 + size]
            start = end + 1 + size + 1
        return found

    def worktree_source(self, path: str) -> str | None:
        """The user's file as it lies on disk now, decoded; None where there is none.

        Raises:
            SourceSyntaxError: The bytes are not text in the encoding that the file names.
        """
        file = self.root / path
        return decode_source(file.read_bytes(), str(file)) if file.is_file() else None

    def describe(self, commit: str) -> tuple[str, datetime]:
        """Subject and author date of a commit.

        A version with uncommitted code is described by the commit that it was based on, and says so.
        """
        marked, subject, stamp, parent = self._facts(commit)
        if not marked:
            return subject, stamp
        if not parent:
            return "uncommitted code, before the first commit", stamp
        if not self.has(parent):
            return f"uncommitted changes of {parent[:8]}, which is gone", stamp
        return f"{self._facts(parent)[1]} + uncommitted changes", stamp

    def is_uncommitted(self, commit: str) -> bool:
        """Whether a version holds code that was not committed when it ran."""
        return self._facts(commit)[0]

    def base(self, commit: str) -> str | None:
        """The user's own commit under a version: the version itself, or what it was based on; None where none was."""
        marked, _, _, parent = self._facts(commit)
        return (parent or None) if marked else self._full(commit)

    def parents(self, commit: str) -> list[str]:
        """The parents that a commit names, whether they are here or not."""
        head = self.git("cat-file", "commit", commit).stdout.partition(b"\n\n")[0]
        return [line[7:].decode("ascii") for line in head.split(b"\n") if line.startswith(b"parent ")]

    def is_ancestor(self, ancestor: str, commit: str) -> bool:
        """Whether one commit lies in the history of another (a commit lies in its own)."""
        return run(self.root, "merge-base", "--is-ancestor", ancestor, commit, check=False).status == 0

    def log_path(self, path: str, commit: str = "HEAD") -> tuple[tuple[str, str], ...]:
        """The commits that changed a file, newest first, each with the file's path in it: renames are followed.

        Returns:
            (commit, path) pairs; empty where the file was never committed.
        """
        # --follow takes one pathspec, and it must be relative to the top
        arguments = ("--follow", "--name-status", "-z", "--format=%x00%x00%H", commit, "--", path)
        answer = run(self.root, "log", *arguments, check=False)
        pairs: list[tuple[str, str]] = []
        for chunk in answer.stdout.split(b"\0\0\0" if answer.stdout.startswith(b"\0\0\0") else b"\0\0"):
            fields = [field.strip(b"\n").decode(errors="surrogateescape") for field in chunk.split(b"\0")]
            fields = [field for field in fields if field]
            if len(fields) >= 3:  # id, status, path; a rename has old path and new path
                pairs.append((fields[0], fields[-1]))
        return tuple(pairs)

    def first_parent_versions(self, commit: str = "HEAD") -> tuple[str, ...]:
        """The commits from one back to the first, along first parents, newest first; empty before the first commit."""
        answer = run(self.root, "rev-list", "--first-parent", commit, "--", check=False)
        return tuple(answer.text.split()) if answer.status == 0 else ()

    def kept_versions(self) -> tuple[str, ...]:
        """The commits that are kept as versions of training runs, here or beside."""
        kept = (*self.own_versions(), *self.beside.versions())
        return tuple(dict.fromkeys(kept))

    def own_versions(self) -> tuple[str, ...]:
        """Those that are kept in the user's repository itself."""
        return tuple(self.git("for-each-ref", "--format=%(objectname)", VERSION_REFS).text.split())

    def compare_loaded(self, commit: str, loaded: Mapping[str, str]) -> list[str]:
        """Which files were, at the end of a training run, not as the version has them.

        Args:
            commit: The version.
            loaded: Path in the repository to the git blob id (SHA-1, or SHA-256 where the repository uses it) of the
                bytes on disk when the training run ended.

        Returns:
            The paths whose content differs, or which the version lacks, sorted.
        """
        entries = _by_path(self.root, self._full(commit))

        def differs(path: str, digest: str) -> bool:
            entry = entries.get(path)
            if entry is None or entry.is_submodule:
                return True
            return digest != entry.id and digest not in self._ids_on_disk(commit, entry)

        return sorted(path for path, digest in loaded.items() if differs(path, digest))

    def _ids_on_disk(self, commit: str, entry: Entry) -> set[str]:
        """The blob ids of a stored file's bytes on disk: through a link, and with line ends or a filter (LFS) applied."""
        if entry.is_symlink:
            content = self.read_bytes(commit, entry.path)
        else:
            answer = run(self.root, "cat-file", "--filters", f"--path={entry.path}", entry.id, check=False)
            content = answer.stdout if answer.status == 0 else None
        return set() if content is None else {blob_id(content, width) for width in (40, 64)}

    def _full(self, commit: str) -> str:
        return commit if _is_full_id(commit) else self.resolve(commit)

    def _facts(self, commit: str) -> tuple[bool, str, datetime, str]:
        return _facts(self.root, self._full(commit))


def object_folders(common_dir: Path) -> list[Path]:
    """Where a repository's objects lie: its own folder, and those that it borrows from in turn."""
    own = common_dir / "objects"
    folders = [own]
    borrowed = own / "info" / "alternates"
    if borrowed.is_file():
        lines = borrowed.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        # Relative ones are not followed from a second repository; absolute ones are, by git itself.
        folders += [(own / line).resolve() for line in lines if line and not line.startswith(("#", "/", '"'))]
    return folders


def decode_source(content: bytes, name: str) -> str:
    """Python source as text, by its byte order mark or encoding cookie; line ends stay as they are.

    Raises:
        SourceSyntaxError: The encoding is unknown, or the bytes do not fit it.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise SourceSyntaxError(f"{name} can't be decoded as Python source: {error}") from error


def blob_id(content: bytes, width: int = 40) -> str:
    """The id that git gives a file's content: 40 hexadecimal digits (SHA-1), or 64 (SHA-256)."""
    digest = hashlib.sha1(usedforsecurity=False) if width == 40 else hashlib.sha256()
    digest.update(b"blob %d\0" % len(content))
    digest.update(content)
    return digest.hexdigest()


# A commit never changes, so what was read of one is kept; a different repository at the same place has other ids.
@lru_cache(maxsize=64)
def _entries(root: Path, commit: str) -> tuple[Entry, ...]:
    answer = run(root, "ls-tree", "-r", "-z", "--full-tree", commit, check=False)
    if answer.status != 0:
        raise SnapshotError(f"{_why_no_commit(commit, root)} ({last_lines(answer.stderr)})")
    entries: list[Entry] = []
    for row in answer.paths:
        facts, path = row.split("\t", 1)
        mode, _, name = facts.split(" ")
        entries.append(Entry(path, mode, name))
    return tuple(entries)


@lru_cache(maxsize=64)
def _by_path(root: Path, commit: str) -> dict[str, Entry]:
    return {entry.path: entry for entry in _entries(root, commit)}


@lru_cache(maxsize=256)
def _blob(common_dir: Path, name: str) -> bytes:
    try:
        return run(common_dir, "cat-file", "blob", name).stdout
    except GitError as error:
        raise SnapshotError(f"A file of a version can't be read from {common_dir}: {error}") from error


@lru_cache(maxsize=1024)
def _facts(root: Path, commit: str) -> tuple[bool, str, datetime, str]:
    """Whether it is a commit of ours; subject; author date; first parent or ''."""
    # Not `git show`: it wants the parents, which the log store does not give back.
    answer = run(root, "cat-file", "commit", commit, check=False)
    if answer.status != 0:
        raise SnapshotError(_why_no_commit(commit, root))
    head, _, message = answer.stdout.partition(b"\n\n")
    fields: dict[bytes, bytes] = {}
    for line in head.split(b"\n"):
        key, _, value = line.partition(b" ")
        fields.setdefault(key, value)
    name, _, stamp = fields.get(b"author", b"").rpartition(b"> ")
    email = name.rpartition(b"<")[2].decode(errors="replace")
    seconds = stamp.split(b" ")[0]
    paragraph = message.lstrip(b"\n").split(b"\n\n")[0]
    text = _decoded(paragraph, fields.get(b"encoding", b"utf-8"))
    subject = " ".join(line.strip() for line in text.strip().splitlines())
    date = datetime.fromtimestamp(int(seconds) if seconds.isdigit() else 0, UTC)
    return email == VERSION_EMAIL, subject, date, fields.get(b"parent", b"").decode("ascii", "replace")


def _decoded(content: bytes, encoding: bytes) -> str:
    try:
        return content.decode(encoding.decode("ascii", "replace"), errors="replace")
    except LookupError:
        return content.decode(errors="replace")


def _is_full_id(commit: str) -> bool:
    return len(commit) in (40, 64) and all(digit in "0123456789abcdef" for digit in commit)


def _why_no_commit(commit: str, root: Path) -> str:
    return (
        f"The commit {commit} is not in the repository {root}. If it was made in another clone, fetch it from there "
        f"(git fetch <remote> 'refs/flor/*:refs/flor/*'); versions are kept under {VERSION_REFS} and survive git gc."
    )


def _why_no_repository(place: Path, said: str) -> str:
    if "dubious ownership" in said or "safe.directory" in said:
        return (
            f"git does not trust the repository at {place}, because it belongs to another user. If you do, run: "
            f"git config --global --add safe.directory {place}"
        )
    if "not a git repository" in said:
        return (
            f"{place} is not inside a git repository. Training runs are replayed from the commits of their code: "
            "run `git init` in the project's folder, or name it with --project."
        )
    return f"git can't use the repository at {place}: {said}"
