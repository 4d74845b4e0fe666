"""Journals written by hand, runs and replays of them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flor_dagster.recording.journal import JournalWriter
from flor_dagster.recording.values import encode
from flor_dagster.store import LogStore
from flor_dagster.store.models import CellRow, ReplayRow

START = 1_700_000_000_000_000_000
COMMIT = "a6c76f3f" + "0" * 32


class Journal:
    """A journal as the recorder writes it: contexts interned when first needed, call sites by line."""

    def __init__(self, path: Path, run: str, rank: int = 0, **header: Any) -> None:
        self.writer = JournalWriter(path)
        self.path = path
        fields = {
            "run": run,
            "rank": rank,
            "mode": "record",
            "started": START,
            "pid": 0,
            "host": socket.gethostname(),
            "entrypoint": "train.py",
            "root": "/somewhere",
            "origin": "script",
            "tags": {},
        }
        self.entry("flor", 1, fields | header)
        self.calls: dict[tuple[str, int], int] = {}
        self.ordinals: dict[tuple[int, str], int] = {}
        self.loops = 0
        self.contexts = 0
        self.stack: list[list[Any]] = []

    def entry(self, *parts: Any) -> None:
        assert self.writer.entry(*parts)

    def context(self) -> int:
        parent = 0
        for frame in self.stack:
            if frame[2] is None:
                self.contexts += 1
                frame[2] = self.contexts
                self.entry("c", frame[2], frame[0], frame[1], json.loads(encode(frame[3])))
            parent = frame[2]
        return parent

    def log(self, name: str, value: Any, line: int = 1, file: str = "train.py") -> int:
        call = self.calls.get((name, line))
        if call is None:
            call = self.calls[name, line] = len(self.calls) + 1
            self.entry("n", call, name, file, "<module>", line, 4)
        context = self.context()
        assert self.writer.write(f"[{call},{context},{encode(value)}]\n".encode())
        return context

    def loop(
        self, name: str, values: Any, ordinal: int | None = None, start: int = 0, how: str = "exhausted"
    ) -> Iterator:
        parent = self.context()
        if ordinal is None:
            ordinal = self.ordinals.get((parent, name), 0)
            self.ordinals[parent, name] = ordinal + 1
        self.loops += 1
        loop = self.loops
        self.entry("l", loop, parent, name, ordinal, "train.py", "<module>", 10, 0, START)
        values = range(values) if isinstance(values, int) else values
        count = 0
        for index, value in enumerate(values, start=start):
            self.stack.append([loop, index, None, value])
            yield value
            self.stack.pop()
            count += 1
        self.entry("e", loop, how, count, START + 2_000_000_000)

    def end(self, status: str = "finished", reason: str = "") -> None:
        self.entry("z", status, reason, START + 5_000_000_000)
        self.writer.close()


class Lab:
    """A project's `.flor/` and its store."""

    def __init__(self, home: Path, store: LogStore) -> None:
        self.home = home
        self.store = store
        self.made = 0

    def journal(
        self, run: str | None = None, *, commit: str | None = COMMIT, rank: int = 0, **header: Any
    ) -> Journal:
        if run is None:
            self.made += 1
            run = f"run{self.made:013d}".translate(str.maketrans("0189", "abcd"))
            header.setdefault("started", START + self.made * 1_000_000_000)
        folder = self.home / "runs" / run
        journal = Journal(folder / f"journal.{rank}.jsonl", run, rank, **header)
        (folder / "lock").touch()
        if commit is not None:
            version = {
                "commit": commit,
                "tree": "t" * 40,
                "dirty": True,
                "excluded": [[".env", "a likely secret"]],
            }
            (folder / "version.json").write_text(json.dumps(version))
        journal.run = run
        return journal

    def ingest(self, journal: Journal) -> Any:
        return self.store.ingest_run(journal.path.parent)

    def replay(
        self, run: str, replay: str, statements: dict[str, dict[str, str]], segment: int = 0
    ) -> Journal:
        path = self.home / "replays" / replay / f"journal.{segment}.jsonl"
        return Journal(path, run, mode="replay", replay=replay, statements=statements)


def replay_row(run: str, replay: str = "rp1", fidelity: str | None = "exact", **fields: Any) -> ReplayRow:
    row = {
        "id": replay,
        "run_id": run,
        "started": datetime(2026, 1, 1, tzinfo=UTC),
        "seconds": 1.5,
        "estimated_seconds": 1.0,
        "status": "finished",
        "fidelity": fidelity,
        "compared_records": 7,
        "compared_digests": 2,
        "sentence": "",
        "plan": {"segments": 1},
    }
    return ReplayRow(**row | fields)


def cell_row(
    run: str, statement: int, status: str = "replayed", fidelity: str | None = "exact", **fields: Any
) -> CellRow:
    row = {
        "run_id": run,
        "statement_id": statement,
        "status": status,
        "fidelity": fidelity,
        "sentence": "",
        "rows": 1,
        "replay_id": "rp1",
        "updated": datetime(2026, 1, 1, 12, tzinfo=UTC),
    }
    return CellRow(**row | fields)
