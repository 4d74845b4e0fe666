"""Whoever waits for the store gets his turn, however many others write."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

from flor_dagster.store.database import Database

WRITERS = 12
TURNS = 360


def test_no_writer_is_passed_over_for_ever(tmp_path: Path) -> None:
    """SQLite's own waiting lets newcomers go first: of twelve, some came once where others came sixty times."""
    Database(tmp_path / "flor.db").close()
    turns: Counter[int] = Counter()
    counting = threading.Lock()

    def write(number: int) -> None:
        database = Database(tmp_path / "flor.db")
        while turns.total() < TURNS:
            with database.write():
                time.sleep(0.005)
                with counting:
                    turns[number] += 1
        database.close()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert min(turns[number] for number in range(WRITERS)) >= TURNS / WRITERS / 10, turns
