"""What the recorded run was told when it asked the file system, and whether a replay is told the same.

A listing, and whether something is there, are inputs like the content of a file. What can be given back is: names that this
system puts into folders or leaves out of them, and the times of files. Everything else is compared where the replay asks again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flor_dagster.recording.layout import is_below

# What tools put anywhere: an empty one stands for it where a listing of the recorded run had it.
_OF_TOOLS = frozenset(
    {"__pycache__", ".git", ".flor", ".ipynb_checkpoints", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
)
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that the run got.

    Args:
        early: before its loops began.
        own: to a question of its own code.
        said: `is`, `size` and `time`, or `names`, or `count` and `digest`; `existence` where only that was asked for.
    """

    early: bool
    own: bool
    said: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answers:
    """All answers of a run: kind of question (`asked`, `listed`) → path → what it was told, in order."""

    of: Mapping[str, Mapping[str, tuple[Answer, ...]]]

    def plan(self, read: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
        """For a child's plan: kind → path → [early, certain, what was said] each; `read` are the files that the run read."""
        folders = {parent for name in read for parent in _parents(name)}
        return {
            kind: {
                path: [[a.early, a.own or path in folders, dict(a.said)] for a in answers]
                for path, answers in by_path.items()
            }
            for kind, by_path in self.of.items()
        }

    def missing_early(self, folder: str) -> bool:
        """Whether the run was told, before its loops, that a folder is not there."""
        return any(
            a.early and a.said.get("is") == "missing" for a in self.of.get("asked", {}).get(folder, ())
        )

    def gone(self, root: Path, versioned: frozenset[str]) -> list[str]:
        """What the run's own code found before its loops began and is not there now, in words.

        Args:
            root: the user's repository.
            versioned: the files of the run's version.
        """
        folders = {parent for name in versioned for parent in _parents(name)}
        found: list[str] = []
        for path, answers in self.of.get("asked", {}).items():
            first = next((a for a in answers if a.early and a.own), None)
            there = first is not None and first.said["is"] != "missing"
            if there and path not in versioned and path not in folders and not os.path.lexists(root / path):
                found.append(f"{path}, which this run asked for, is missing")
        for path, answers in self.of.get("listed", {}).items():
            first = next((a for a in answers if a.early and a.own), None)
            names = [] if first is None else first.said.get("names", [])
            lost = [n for n in names if n not in _OF_TOOLS and not os.path.lexists(root / path / n)]
            inside = [os.path.normpath(os.path.join(path, n)) for n in lost]  # noqa: PTH118 - texts
            lost = [
                n
                for n, full in zip(lost, inside, strict=True)
                if full not in versioned and full not in folders
            ]
            if lost:
                found.append(f"{path}, which this run listed, lacks {_some(lost)}")
        return found


def read_answers(facts: Iterable[Mapping[str, Any]], looped: int) -> Answers:
    """What a run noted.

    Args:
        facts: the lines of its notes.
        looped: when its loops began.
    """
    found: dict[str, dict[str, list[Answer]]] = {"asked": defaultdict(list), "listed": defaultdict(list)}
    for one in facts:
        for kind in found.keys() & one.keys():
            said = {k: v for k, v in one.items() if k not in (kind, "t", "own")}
            found[kind][str(one[kind])].append(Answer(int(one["t"]) < looped, bool(one["own"]), said))
    return Answers({kind: {path: tuple(a) for path, a in by_path.items()} for kind, by_path in found.items()})


def give_back(answers: Answers, checkout: Path, root: Path, began: float) -> None:
    """Let a checkout give the answers that do not come with its files: folders that no version holds, and the times of files.

    Args:
        answers: of the run.
        checkout: where they are asked for again.
        root: the user's repository.
        began: when the run's process did, in seconds.
    """
    _make_folders(answers, checkout, root, began)
    for path, told in answers.of.get("listed", {}).items():
        for name in {n for a in told for n in a.said.get("names", [])} & _OF_TOOLS:
            if not (path == "." or is_below(path)):
                continue
            folder = checkout / path
            if _inside(folder, checkout) and folder.is_dir() and not os.path.lexists(folder / name):
                with contextlib.suppress(OSError):
                    (folder / name).mkdir()
    for path, told in answers.of.get("asked", {}).items():
        time = next((a.said["time"] for a in told if a.early and "time" in a.said), None)
        if not is_below(path):
            continue  # what lies elsewhere is compared where it is
        target = checkout / path
        if told[0].early and told[0].said["is"] == "missing":
            _take_away(target, checkout)
        if (
            time is not None
            and _inside(target.parent, checkout)
            and target.is_file()
            and not target.is_symlink()
        ):
            with contextlib.suppress(OSError):
                os.utime(target, ns=(time, time))


def _make_folders(answers: Answers, checkout: Path, root: Path, began: float) -> None:
    """Make the folders that the run was told of and found there: git keeps none without files.

    One that the run may have made itself is left to it.
    """
    asked, listed = answers.of.get("asked", {}), answers.of.get("listed", {})
    wanted = [path for path, told in asked.items() if told[0].said["is"] == "folder"]
    for path, told in listed.items():
        wanted += [path, *(f"{path}/{name}" for name in told[0].said.get("names", ()))]
    for path in wanted:
        folder = checkout / path
        with contextlib.suppress(OSError):
            before = stat.S_ISDIR((root / path).stat().st_mode) and (root / path).stat().st_ctime < began
            if before and not os.path.lexists(folder) and _inside(folder, checkout):
                folder.mkdir(parents=True)


def _take_away(target: Path, checkout: Path) -> None:
    """Take out what was not there when the run began: it wrote it while its version was being kept, or it was made since."""
    if target == checkout or target.suffix == ".py" or not _inside(target.parent, checkout):
        return
    with contextlib.suppress(OSError):
        if target.is_symlink() or target.is_file():
            target.unlink()
        elif target.is_dir():
            shutil.rmtree(target)


def _inside(folder: Path, checkout: Path) -> bool:
    """Whether a folder is the checkout's own: no link leads out of it to the user's files."""
    return folder.resolve().is_relative_to(checkout.resolve())


def difference(kind: str, told: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How an answer of now differs from one of then; empty where it does not."""
    if kind == "asked":
        if told["is"] != now["is"]:
            return f"was {_thing(told['is'])} and is {_thing(now['is'])}"
        if not told.get("existence") and told.get("size") != now.get("size"):
            return f"had {told.get('size')} bytes and has {now.get('size')}"
        return ""
    if "names" not in told or "names" not in now:
        count = {"count": len(told["names"])} if "names" in told else told
        other = {"count": len(now["names"])} if "names" in now else now
        if {k: v for k, v in count.items() if k in ("count", "digest")} == {
            k: v for k, v in other.items() if k in ("count", "digest")
        }:
            return ""
        return f"held {count['count']} names and holds {other['count']}, or others"
    lost = [n for n in told["names"] if n not in now["names"]]
    more = [n for n in now["names"] if n not in told["names"]]
    words = [f"held {_some(lost)} then and not now"] if lost else []
    words += [f"holds {_some(more)} now and not then"] if more else []
    return " and ".join(words)


def of_tools(path: str) -> bool:
    """Whether a path lies in a folder that tools fill."""
    return not _OF_TOOLS.isdisjoint(Path(path).parts)


def _thing(kind: str) -> str:
    return {"missing": "missing", "file": "a file", "folder": "a folder"}.get(kind, "something else")


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _parents(name: str) -> list[str]:
    return [str(folder) for folder in Path(name).parents]
