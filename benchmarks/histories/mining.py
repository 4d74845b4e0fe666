"""Read a repository's history, and follow lines through every version between two."""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import itertools
import json
import re
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 80_000
SIMILAR = 0.7
warnings.filterwarnings("ignore", category=SyntaxWarning)


def order(*parts: object) -> str:
    """A stable order that looks like chance."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


class Mine:
    """One bare clone."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        git = folder / "repo"
        self._git = git / ".git" if (git / ".git").is_dir() else git
        self._reader = subprocess.Popen(
            ["git", f"--git-dir={self._git}", "cat-file", "--batch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.text = functools.lru_cache(4000)(self._text)
        self.files = functools.lru_cache(64)(self._files)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", f"--git-dir={self._git}", *arguments], capture_output=True, check=False)
        return done.stdout.decode(errors="replace")

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD").strip()

    def histories(self, pattern: str, most: int) -> Iterator[list[tuple[str, str]]]:
        """(commit, path) of files that changed at least twice, newest first, renames followed."""
        names = self.git("log", "--first-parent", "-m", "--name-only", "--format=", "HEAD").split("\n")
        counts: dict[str, int] = {}
        for name in names:
            if re.search(pattern, name):
                counts[name] = counts.get(name, 0) + 1
        known = set(self.files(self.head))
        often = [n for n, c in counts.items() if c >= 2 and n in known and "test" not in n]
        often.sort(key=lambda n: (-min(counts[n], 12), order(self.name, n)))
        for name in often[:most]:
            out = self.git(
                "log",
                "--first-parent",
                "-m",
                "--follow",
                "--name-status",
                "--format=C %H",
                "HEAD",
                "--",
                name,
            )
            history: list[tuple[str, str]] = []
            commit = ""
            for line in out.split("\n"):
                if line.startswith("C "):
                    commit = line[2:]
                elif line[:1] in ("A", "M", "R") and commit:
                    history.append((commit, line.split("\t")[-1]))
                    commit = ""
            if len(history) >= 2:
                yield history

    def _files(self, commit: str) -> tuple[str, ...]:
        return tuple(self.git("ls-tree", "-r", "--name-only", commit).split("\n"))

    def _text(self, commit: str, path: str) -> str | None:
        """A file as a script that parses; a notebook's code cells one after the other."""
        stdin, stdout = self._reader.stdin, self._reader.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{commit}:{path}\n".encode())
        stdin.flush()
        head = stdout.readline().split()
        if len(head) < 3 or not head[2].isdigit():
            return None
        raw = stdout.read(int(head[2]) + 1)[:-1]
        if head[1] != b"blob":
            return None
        try:
            text = raw.decode().replace("\r\n", "\n")
            text = exported(text) if path.endswith(".ipynb") else text
            ast.parse(text)
        except (UnicodeDecodeError, SyntaxError, ValueError, RecursionError, KeyError):
            return None
        return text if len(text) < MAX_BYTES and "\f" not in text else None


def exported(notebook: str) -> str:
    """A notebook's code as a script; magics become comments, a cell that they leave empty a `pass`."""
    loaded = json.loads(notebook)
    cells = loaded["cells"] if "cells" in loaded else [c for w in loaded["worksheets"] for c in w["cells"]]
    parts: list[str] = []
    for cell in cells:
        if cell.get("cell_type") != "code":
            continue
        source = cell.get("source", cell.get("input", ""))
        lines = ("".join(source) if isinstance(source, list) else source).split("\n")
        parts.append(
            "\n".join("# " + line if line.lstrip().startswith(("%", "!")) else line for line in lines)
        )
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Traced:
    """Where the lines of a newer version are in an older one; `changed` ones differ in their text."""

    lines: dict[int, int]
    changed: frozenset[int]


def trace(newer: str, older: str) -> Traced:
    """Follow lines from one version to the next: equal ones, and changed ones that stand alone for each other."""
    a, b = newer.split("\n"), older.split("\n")
    lines: dict[int, int] = {}
    changed: set[int] = set()
    matcher = difflib.SequenceMatcher(None, [x.strip() for x in a], [x.strip() for x in b], autojunk=False)
    for tag, i, j, x, y in matcher.get_opcodes():
        if tag == "equal" or (tag == "replace" and j - i == y - x):
            for k in range(j - i):
                like = 1.0 if tag == "equal" else difflib.SequenceMatcher(None, a[i + k], b[x + k]).ratio()
                if like >= SIMILAR:
                    lines[i + k + 1] = x + k + 1
                    if like < 1.0:
                        changed.add(i + k + 1)
    return Traced(lines, frozenset(changed))


def through(texts: list[str]) -> Traced:
    """Follow lines through a run of versions, newest first."""
    total: Traced | None = None
    for newer, older in itertools.pairwise(texts):
        step = trace(newer, older)
        if total is None:
            total = step
            continue
        lines = {a: step.lines[b] for a, b in total.lines.items() if b in step.lines}
        changed = {a for a in lines if a in total.changed or total.lines[a] in step.changed}
        total = Traced(lines, frozenset(changed))
    return total or Traced({}, frozenset())
