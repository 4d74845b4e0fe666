"""What runs beside trainings on one store, as processes of their own that may be killed: python -m tests.faults.actors KIND …"""

from __future__ import annotations

import json
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flor_dagster.errors import FlorError
from flor_dagster.replay.model import Question
from flor_dagster.replay.workspace import Workspace
from tests.faults.oracle import wrong_rows

# Half of the versions lack the statement; whoever asks at such a moment is told so.
EXPECTED = ("no statement logs", "There is no statement", "no training run")


class Told:
    """The lines that an actor leaves behind: one JSON object each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, **fields: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(fields) + "\n")


def ask(root: Path, url: str | None, told: Told, choice: random.Random) -> None:
    with Workspace.open(root, store_url=url) as workspace:
        workspace.ask("asked")
        latest = choice.choice([None, 3, 10])
        report = workspace.answer(Question(("asked",), latest=latest, workers=1, max_seconds=60))
        told(did="asked", cells=len(report.cells), children=report.children)
        for answer in report.cells:
            said = "version is approximate" in answer.cell.sentence
            if (answer.cell.status == "failed" or answer.cell.fidelity == "diverged") and not said:
                told(fault=f"{answer.run.key}: {answer.cell.sentence}")


def view(root: Path, url: str | None, told: Told, choice: random.Random) -> None:
    del choice
    with Workspace.open(root, store_url=url) as workspace:
        most: dict[str, int] = {}
        for _ in range(20):
            workspace.sync()
            if not workspace.runs() or "total" not in {row.name for row in workspace.store.statements()}:
                return
            names = {row.name for row in workspace.store.statements()} & {"marker", "total", "asked"}
            frame = workspace.store.dataframe(*sorted(names), "arg:seed")
            for words in wrong_rows(frame):
                told(fault=words)
            rows = frame.groupby("run")["total"].count().to_dict()
            for run, count in rows.items():
                if count < most.get(str(run), 0):
                    told(fault=f"{run} had {most[str(run)]} values of total, and has {count}")
                most[str(run)] = int(count)
            told(did="viewed", rows=len(frame))


def look_after(root: Path, url: str | None, told: Told, choice: random.Random) -> None:
    time.sleep(choice.uniform(0.5, 3))
    with Workspace.open(root, store_url=url) as workspace:
        if choice.random() < 0.3:
            workspace.store.rebuild()
            told(did="rebuilt")
        else:
            workspace.collect(200_000)
            told(did="collected")


def sense(root: Path, url: str | None, told: Told, choice: random.Random) -> None:
    import dagster as dg

    import flor_dagster as flor

    del choice
    project = flor.FlorProject("soak", repo=root, entrypoints=["train.py"], store_url=url or "")
    repository = flor.build_flor_definitions(project).get_repository_def()
    with dg.DagsterInstance.ephemeral() as instance:
        cursors: dict[str, str | None] = {}
        while True:
            for sensor in ("new_statements", "recorded_runs", "log_view_refresh"):
                context = dg.build_sensor_context(
                    instance, cursor=cursors.get(sensor), repository_def=repository
                )
                result = repository.get_sensor_def(f"soak_{sensor}").evaluate_tick(context)
                cursors[sensor] = result.cursor
                for request in result.dynamic_partitions_requests or ():
                    name, keys = request.partitions_def_name, list(request.partition_keys)
                    if isinstance(request, dg.AddDynamicPartitionsRequest):
                        instance.add_dynamic_partitions(name, keys)
                    else:
                        for key in keys:
                            instance.delete_dynamic_partition(name, key)
                told(did="sensed")
            time.sleep(0.5)


KINDS: dict[str, Callable[[Path, str | None, Told, random.Random], None]] = {
    "ask": ask, "view": view, "look_after": look_after, "sense": sense
}  # fmt: skip


def main() -> None:
    kind, root, url, path, seed = sys.argv[1:]
    told = Told(Path(path))
    choice = random.Random(seed)
    while True:
        try:
            KINDS[kind](Path(root), url or None, told, choice)
        except FlorError as error:
            if not str(error).startswith(EXPECTED) and not any(words in str(error) for words in EXPECTED):
                told(fault=f"{kind}: {type(error).__name__}: {error}")
            time.sleep(0.3)
        except Exception:
            told(fault=f"{kind}: {traceback.format_exc()}")
            time.sleep(0.3)


if __name__ == "__main__":
    main()
