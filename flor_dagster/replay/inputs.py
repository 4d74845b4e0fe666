"""The data files of a training run: what it read, what became of that since, and which of them a replay may have.

A file that was written when the run was in its loops is no input of it: it is its output, or somebody else's later work. It is
not put into a replay's checkout, where the replayed code writes it anew. What the run read is the same file that nobody touched
(inode, size and times, the system's own of its last change among them), or is compared by its content: a time alone can be set.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flor_dagster.errors import ReplayError, odd_content
from flor_dagster.recording import layout
from flor_dagster.recording.datafiles import FILE_NAME, KEPT_FOLDER, content_digest, sample_digest
from flor_dagster.recording.layout import name_in
from flor_dagster.replay.answers import Answers, read_answers
from flor_dagster.replay.record import RunRecord

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Mark:
    """What the system said of a file besides its time.

    Attributes:
        inode: its number.
        changed: when it was last changed, by the system's own clock.
    """

    inode: int
    changed: int

    def is_of(self, status: os.stat_result) -> bool:
        """Whether a file is this one, and nobody touched it since."""
        return (self.inode, self.changed) == (status.st_ino, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Ahead:
    """A file whose time was ahead of the clock when it was read.

    Attributes:
        seen: when it was read first.
        mark: what the system said of it.
    """

    seen: int
    mark: Mark


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is known of a run's data files.

    Args:
        known: whether the run noted what it read.
        read: path → size and time (nanoseconds) at its first reading; relative to the repository where it lies in it.
        kept: path → a copy of what was read.
        digests: path → digest of its content, of small files.
        samples: path → digest of pieces of it, of large ones.
        marks: path → what the system said of it.
        handed: paths that were named to another program: nobody knows whether it read them.
        answers: what it was told when it asked the file system.
        looped: when the run's first loop began, or the run, where it has none; what was written later is no input.
        complete: whether all that was read was noted.
        ahead: files whose time was ahead of the run's clock when it read them.
    """

    known: bool
    read: Mapping[str, tuple[int, int]]
    kept: Mapping[str, Path]
    looped: int
    complete: bool = True
    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    answers: Answers = field(default_factory=lambda: Answers({}))
    ahead: Mapping[str, Ahead] = field(default_factory=dict[str, "Ahead"])
    samples: Mapping[str, str] = field(default_factory=dict[str, str])
    marks: Mapping[str, Mark] = field(default_factory=dict[str, "Mark"])
    handed: frozenset[str] = frozenset()

    def leaves_out(self, name: str, written: int) -> bool:
        """Whether the file of that name, written then, is not for a replay: made or changed since the loops began, or kept."""
        return name in self.kept or (written >= self.looped and not self.came_before(name))

    def came_before(self, name: str) -> bool:
        """Whether the run read a file of that name that was there before its loops began."""
        if name not in self.read:
            return False
        ahead = self.ahead.get(name)
        return self.read[name][1] < self.looped or (
            ahead is not None and min(ahead.seen, ahead.mark.changed) < self.looped
        )


@dataclass(frozen=True, slots=True)
class Changed:
    """A file that a run read and that is not as it was, or whose time says that it may not be (`certain` is false)."""

    name: str
    why: str
    certain: bool = True
    how: str = "which this run read"

    @property
    def sentence(self) -> str:
        """In words."""
        return f"{self.name}, {self.how}, {self.why}"


def read_inputs(home: Path, run_id: str, record: RunRecord) -> Inputs:
    """What a run noted of its data files.

    Args:
        home: the `.flor/` folder.
        run_id: the run.
        record: its journal.
    """
    folder = layout.run_folder(home, run_id)
    started = [e.started for e in record.executions.values()]
    looped = min(started, default=int(record.header.get("started") or 0))
    with odd_content(f"{folder / FILE_NAME}", ReplayError):
        return _inputs(folder, looped)


def _inputs(folder: Path, looped: int) -> Inputs:
    read: dict[str, tuple[int, int]] = {}
    kept: dict[str, Path] = {}
    known, complete = False, True
    unknown: set[str] = set()
    digests: dict[str, str] = {}
    samples: dict[str, str] = {}
    marks: dict[str, Mark] = {}
    ahead: dict[str, Ahead] = {}
    handed: set[str] = set()
    answered: list[dict[str, Any]] = []
    for name, *more in _lines(folder / FILE_NAME):
        if not isinstance(name, str):
            known = True
            facts: dict[str, Any] = more[0] if more and isinstance(more[0], dict) else {}
            complete &= not facts.get("more")
            digests |= facts.get("digests", {})
            samples |= facts.get("samples", {})
            unknown |= {str(one) for one in facts.get("unknown", ())}
            handed |= {str(facts["handed"])} if "handed" in facts else set()
            if "ahead" in facts:
                mark = Mark(int(facts["inode"]), int(facts["changed"]))
                ahead[str(facts["ahead"])] = Ahead(int(facts["t"]), mark)
            answered.append(facts)
        elif name not in read and len(more) >= 2:
            read[name] = (int(more[0]), int(more[1]))
            copy = (
                name_in(folder / KEPT_FOLDER, more[2], "a kept file") if len(more) > 2 and more[2] else None
            )
            if len(more) > 4:
                marks[name] = Mark(int(more[3]), int(more[4]))
            # What lies elsewhere is never put anywhere: it is compared where it is.
            if copy is not None and layout.is_below(name) and copy.is_file() and not copy.is_symlink():
                kept[name] = copy
    for name in unknown & read.keys():
        del read[name]
    return Inputs(known, read, kept, looped, complete, digests, read_answers(answered, looped), ahead, samples, marks, frozenset(handed))  # fmt: skip


def _lines(path: Path) -> list[list[Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    found: list[list[Any]] = []
    for line in text.splitlines():
        try:
            parts = json.loads(line)
        except (ValueError, RecursionError):
            continue  # torn
        if isinstance(parts, list) and parts:
            found.append(parts)
    return found


def changed_since(inputs: Inputs, root: Path, versioned: frozenset[str]) -> tuple[Changed, ...]:
    """The files that a run read before its loops and that are missing or others now.

    Args:
        inputs: what the run noted.
        root: the user's repository.
        versioned: the files of the run's version: a checkout has them as they were.
    """
    found: list[Changed] = []
    for name, (size, written) in inputs.read.items():
        if name in versioned or name in inputs.kept or not inputs.came_before(name):
            continue
        try:
            status = (root / name).stat()
        except OSError:
            found.append(Changed(name, "is missing"))
            continue
        if status.st_size != size:
            found.append(Changed(name, f"changed since ({size} bytes then, {status.st_size} now)"))
            continue
        ahead, mark = inputs.ahead.get(name), inputs.marks.get(name)
        same_time = status.st_mtime_ns == written
        if same_time and (mark or (ahead.mark if ahead else _UNKNOWN)).is_of(status):
            continue
        why = _by_content(inputs, name, root / name, status)
        if why is not None:
            found += [Changed(name, why)] if why else []
        elif ahead is not None:
            words = "had a time ahead of the run's clock, and it can't be shown to be the same now"
            found.append(Changed(name, words, certain=False))
        elif not same_time:
            found.append(Changed(name, "was written again since (its size is the same)", certain=False))
        elif mark is not None:
            words = "was touched since (its size and time are the same), and nothing is kept that tells its content"
            found.append(Changed(name, words, certain=False))
    return tuple(
        replace(c, certain=False, how="which this run named to another program")
        if c.name in inputs.handed
        else c
        for c in found
    )


_UNKNOWN = Mark(-1, -1)


def _by_content(inputs: Inputs, name: str, path: Path, status: os.stat_result) -> str | None:
    """How a file of the same size differs by its content, empty where it does not; None where that is not known.

    Pieces of a large file tell that it is another one. That they are equal is enough only where its time is the same, too.
    """
    digest, sample = inputs.digests.get(name), inputs.samples.get(name)
    if digest is not None:
        same = content_digest(path, status.st_size, status.st_mtime_ns) == digest
        return "" if same else "changed since (its size is the same, its content is not)"
    if sample is not None:
        if sample_digest(path, status.st_size, status.st_mtime_ns) != sample:
            return "changed since (its size is the same, its content is not)"
        if status.st_mtime_ns == inputs.read[name][1]:
            return ""
    return None


def other_in_version(inputs: Inputs, checkout: Path, versioned: frozenset[str]) -> tuple[Changed, ...]:
    """The files that a run read and that its version holds with another content: it was kept when they were written over.

    Args:
        inputs: what the run noted.
        checkout: of the version.
        versioned: the files of it that the run read.
    """
    found: list[Changed] = []
    for name in sorted(versioned - inputs.kept.keys()):
        status = (checkout / name).stat()
        digest = inputs.digests.get(name)
        if status.st_size != inputs.read[name][0] or (
            digest is not None
            and content_digest(checkout / name, status.st_size, status.st_mtime_ns) != digest
        ):
            found.append(Changed(name, "was written over before its version was kept"))
    return tuple(found)


def shown(changed: tuple[Changed, ...]) -> tuple[str, ...]:
    """Some of them in words, and how many more there are."""
    words = [c.sentence for c in changed[:SHOWN]]
    more = len(changed) - SHOWN
    return (*words, *([f"{more} more files that it read are missing or changed"] if more > 0 else []))


def put_kept(inputs: Inputs, checkout: Path) -> None:
    """Put what the run went on from into a checkout, as it was when the run read it."""
    for name, copy in inputs.kept.items():
        target = checkout / name
        # Folders that nobody versions are linked into the checkout: what is put there would lie in the user's own.
        if not target.parent.resolve().is_relative_to(checkout.resolve()):
            raise ReplayError(
                f"{name}, which this run read, was written over by it, and lies in a folder that is linked into replays: "
                "its replay can't have it as it was"
            )
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(copy, target)
        os.utime(target, ns=(inputs.read[name][1], inputs.read[name][1]))
