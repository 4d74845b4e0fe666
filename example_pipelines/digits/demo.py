"""The main job, end to end: train the versions, write three statements today, get their values for every training run.

Run `make demo`, or `python -m example_pipelines.digits.demo`. Everything is made anew in `demo/`, at each start.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from example_pipelines.digits.history import History, ProjectRepository, load_history
from example_pipelines.digits.printing import (
    console,
    counted,
    heading,
    near_the_change,
    plain_table,
    say,
    show_diff,
)
from flor_dagster import Workspace
from flor_dagster.replay.workspace import VersionPlacement
from flor_dagster.store.models import CellRow, ReplayRow, RunRow, StatementRow

ROOT = Path(__file__).parents[2]

# Asked one after the other, so that each shows what it costs: the first two stand outside the step loop, the third inside.
QUESTIONS = (("weight_norm", "update_ratio"), ("grad_norm",))

# Sums differ between one thread and two. One thread for each training, so that several replays fit side by side.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# Dagster asks nothing and sends nothing; a Dagster run starts when it is launched.
DAGSTER_SETTINGS = """\
telemetry:
  enabled: false
nux:
  enabled: false
run_coordinator:
  module: dagster.core.run_coordinator
  class: DefaultRunCoordinator
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """One hindsight backfill: what was asked, and what it took from its launch to its end, in seconds."""

    statements: tuple[str, ...]
    backfill: str
    status: str
    dagster_runs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Project:
    """What the log store knows of the project after the questions."""

    history: History
    workspace: Workspace
    runs: tuple[RunRow, ...]
    statements: Mapping[str, StatementRow]
    places: Mapping[str, Sequence[VersionPlacement]]
    cells: Mapping[tuple[str, str], CellRow]
    replays: Mapping[str, ReplayRow]

    @classmethod
    def read(cls, workspace: Workspace, history: History) -> "Project":
        store = workspace.store
        statements = {row.key: row for row in store.statements() if row.key in history.statements}
        keys = {row.id: row.key for row in statements.values()}
        return cls(
            history=history,
            workspace=workspace,
            runs=workspace.runs(),
            statements=statements,
            places={name: workspace.propagation(name) for name in history.statements},
            cells={
                (cell.run_id, keys[cell.statement_id]): cell for cell in store.cells(statement_ids=list(keys))
            },
            replays={replay.id: replay for replay in store.replays()},
        )

    def cell(self, run: RunRow, name: str) -> CellRow:
        """The cell of a training run and a statement; open where nothing is known of it."""
        words = "nothing is known of it"
        unknown = CellRow(run.id, self.statements[name].id, "open", None, words, 0, None, run.started)
        return self.cells.get((run.id, name), unknown)

    def replays_of(self, asked: Asked) -> list[ReplayRow]:
        """The replays that answered one backfill's cells."""
        wanted = {cell.replay_id for (_, name), cell in self.cells.items() if name in asked.statements}
        return [replay for replay in self.replays.values() if replay.id in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--into", type=Path, default=ROOT / "demo", help="folder of the demo; it is emptied first"
    )
    parser.add_argument("--epochs", type=int, help="train this many epochs, not the script's default")
    options = parser.parse_args()

    history = load_history()
    into: Path = options.into.resolve()
    shutil.rmtree(into, ignore_errors=True)
    repository = ProjectRepository(into / "digits", history)
    repository.create()

    say(
        "A team trained seven versions of a digit classifier. Today somebody asks about values that nobody logged:",
        "how large were the weights, the gradients, the updates? The statements are written once, into the newest",
        "script; their values are wanted for every training run ever made.",
    )
    heading(1, "The past: each version is committed and trained")
    trainings = train_all(repository, history, {} if options.epochs is None else {"epochs": options.epochs})

    heading(2, "Today: three statements are added to the newest script, and committed")
    commit_newest(repository, history)

    with Workspace.open(repository.folder, entrypoints=[history.script]) as workspace:
        heading(3, "Where each statement goes in every old version; nothing has run yet")
        show_places(workspace, history)

        heading(
            4, "The question: two hindsight backfills of the asset digits/hindsight, launched through Dagster"
        )
        write_dagster_settings(into / "dagster_home")
        asked = [ask_through_dagster(into, names) for names in QUESTIONS]
        project = Project.read(workspace, history)
        show_cells(project)

        heading(5, "The log view")
        show_view(project)

        heading(6, "The answer")
        show_answer(project, trainings, asked)
    say("", "The same in Dagster's UI: make ui, then http://127.0.0.1:3000")
    return 0 if all(part.status == "COMPLETED_SUCCESS" for part in asked) else 1


# ---------------------------------------------------------------------------------------------------------- the past


def train_all(repository: ProjectRepository, history: History, more: Mapping[str, Any]) -> list[float]:
    """Commit each version and train it; the CPU seconds of each training's processes, in order."""
    trainings: list[float] = []
    for version in history.versions:
        commit = repository.commit(version)
        say(f"{commit[:8]}  {version.date:%Y-%m-%d}  {version.subject}", style="bold")
        for arguments in version.trainings:
            command, seconds, used, last = train(repository.folder, history.script, {**arguments, **more})
            say(f"    {command:40} {seconds:5.1f} s   {last}")
            trainings.append(used)
    return trainings


def train(folder: Path, script: str, arguments: Mapping[str, Any]) -> tuple[str, float, float, str]:
    """One training in a process of its own: plain Python, or `flor run` where it gets arguments; its seconds by the clock and of CPU."""
    given = [word for name, value in arguments.items() for word in ("--arg", f"{name}={value}")]
    command = ["-m", "flor_dagster.cli", "run", script, *given] if given else [script]
    shown = " ".join(["flor", "run", script, *given] if given else ["python", script])
    start, before = time.perf_counter(), children_cpu()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | ONE_THREAD,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        sys.exit(f"{shown} ended with status {done.returncode}:\n{tail}")
    last = [line for line in done.stdout.splitlines() if line.startswith("epoch")][-1]
    return shown, seconds, children_cpu() - before, last.partition(": ")[2]


def children_cpu() -> float:
    """The CPU seconds of all processes that were started here and are over."""
    used = os.times()
    return used.children_user + used.children_system


# -------------------------------------------------------------------------------------------------------- the question


def commit_newest(repository: ProjectRepository, history: History) -> None:
    """Commit the newest version: the same script and three statements more."""
    commit = repository.commit(history.newest)
    say(f"{commit[:8]}  {history.newest.date:%Y-%m-%d}  {history.newest.subject}", "", style="bold")
    show_diff(repository.diff_of_head())


def show_places(workspace: Workspace, history: History) -> None:
    """Where each statement goes in every old version, or why it has no place there; likely places are confirmed."""
    for name in history.statements:
        say(name, style="bold")
        for version in workspace.propagation(name):
            place = version.placement
            say(f"  {version.commit[:8]}  {version.subject}")
            if place.status == "refused":
                say(f"            refused: {place.sentence}", style="yellow")
            else:
                said = f"{place.status}: {place.file} line {place.line}, place {place.said}"
                say(f"            {said}", style="yellow" if place.waits else "green")
                show_diff(near_the_change(place.diff))
            if place.waits:
                # Nothing is answered from a likely place before a person has looked at it: here, whoever reads this.
                say(
                    f"            {'; '.join(place.reasons)}", "            confirmed: it is where it belongs"
                )
                workspace.confirm_place(workspace.store.statement(name), version.commit, "the demo")
        say("")


def write_dagster_settings(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(DAGSTER_SETTINGS)


def ask_through_dagster(into: Path, statements: tuple[str, ...]) -> Asked:
    """Launch one hindsight backfill of every training run through Dagster, and wait for its end."""
    home, log, answer = into / "dagster_home", into / "dagster.log", into / "backfill.json"
    answer.unlink(missing_ok=True)
    command = [
        "-m",
        "example_pipelines.digits.backfill",
        "--home",
        str(home),
        "--result",
        str(answer),
        *statements,
    ]
    with log.open("a") as output:
        subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | {"FLOR_DEMO": str(into / "digits")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if not answer.exists():
        tail = "\n".join(log.read_text().splitlines()[-20:])
        sys.exit(f"Dagster did not get to the end of the backfill; the last lines of {log}:\n{tail}")
    result = json.loads(answer.read_text())
    say(
        f"backfill {result['backfill']} of {', '.join(statements)}: {result['status']}, "
        f"{counted(len(result['runs']), 'Dagster run')}, {result['seconds']:.1f} s"
    )
    return Asked(statements, result["backfill"], result["status"], len(result["runs"]), result["seconds"])


def show_cells(project: Project) -> None:
    """Every cell's answer, as it stands on its partition in Dagster; a training run by the end of its key."""
    for name in (name for names in QUESTIONS for name in names):
        say("", name, style="bold")
        for run in project.runs:
            cell = project.cell(run, name)
            style = {"replayed": "green", "refused": "yellow"}.get(cell.status, "red")
            say(f"  {run.key[20:]}  {answer_of(cell)}", style=style)


def answer_of(cell: CellRow) -> str:
    """A cell's answer in words, its status first."""
    return cell.sentence if cell.sentence.startswith(cell.status) else f"{cell.status}: {cell.sentence}"


# ---------------------------------------------------------------------------------------------------------- the answer


def show_view(project: Project) -> None:
    """The log view: the new columns, each value with its origin and fidelity."""
    store = project.workspace.store
    epochs = store.dataframe("train_loss", "weight_norm", "update_ratio", provenance=True)
    steps = store.dataframe("loss", "grad_norm", provenance=True)
    say("Beside each new value its origin and fidelity; an empty place says why it is empty.")
    say("", f"By epoch, {len(epochs)} rows; here the first and the last of each training run:", "")
    show_frame(project, epochs, ("epoch",), "train_loss", ("weight_norm", "update_ratio"))
    say("", f"By step, {len(steps)} rows; here the first and the last of each training run:", "")
    show_frame(project, steps, ("epoch", "step"), "loss", ("grad_norm",))


def show_frame(
    project: Project, frame: Any, loops: tuple[str, ...], known: str, asked: tuple[str, ...]
) -> None:
    table = plain_table("run", *loops, known, *asked, right=(*loops, known))
    for run in project.runs:
        rows = frame[frame["run"] == run.key]
        for _, row in rows.iloc[[0, -1]].iterrows():
            values = (value_and_source(project, run, row, name) for name in asked)
            table.add_row(run.key, *(str(row[loop]) for loop in loops), f"{row[known]:.5f}", *values)
    console.print(table)


def value_and_source(project: Project, run: RunRow, row: Any, name: str) -> str:
    """A value with its origin and fidelity; of an empty place, why it is empty."""
    origin, fidelity = row[f"{name}_origin"], row[f"{name}_fidelity"]
    if not isinstance(origin, str) or not origin:
        return f"{'':8} {project.cell(run, name).status}"
    return f"{row[name]:8.5f} {origin}, {fidelity}"


def show_answer(project: Project, trainings: Sequence[float], asked: Sequence[Asked]) -> None:
    """What a reader wants to know in the end."""
    say_what_was_asked(project)
    say_who_took_it(project)
    say_what_is_new(project)
    say_how_it_is_known(project, asked)
    say_what_it_cost(project, trainings, asked)


def say_what_was_asked(project: Project) -> None:
    say("What was asked", style="bold")
    for name in project.history.statements:
        row = project.statements[name]
        place = (
            f"in the loop `{row.loops[-1]}` of {row.function}()"
            if row.loops
            else f"in {row.function}(), at each call"
        )
        say(f"  {name} = {row.expression}", f"    {place}")
    runs, versions = len(project.runs), len(project.history.versions)
    say(f"  Asked of {runs} training runs of {versions} versions, none of which had logged it.")


def say_who_took_it(project: Project) -> None:
    say("", "Which versions took it", style="bold")
    for name, places in project.places.items():
        took = [place.commit[:8] for place in places if place.placement.status != "refused"]
        say(f"  {name}: {len(took)} of {len(places)} versions ({' '.join(took)})")
        for place in places:
            if place.placement.status == "refused":
                say(f"    refused by {place.commit[:8]} ({place.subject}): {place.placement.sentence}")


def say_what_is_new(project: Project) -> None:
    say("", "Which values are new", style="bold")
    for name in project.history.statements:
        cells = [project.cell(run, name) for run in project.runs]
        replayed = [cell for cell in cells if cell.status == "replayed"]
        refused = sum(cell.status == "refused" for cell in cells)
        without = (
            f"; {counted(refused, 'training run')} of versions that refused it have none" if refused else ""
        )
        say(
            f"  {name}: {sum(cell.rows for cell in replayed)} values in {counted(len(replayed), 'training run')}{without}"
        )
        for run, cell in zip(project.runs, cells, strict=True):
            if cell.status not in ("replayed", "refused"):
                say(f"    not answered for {run.key}: {answer_of(cell)}", style="red")


def say_how_it_is_known(project: Project, asked: Sequence[Asked]) -> None:
    say("", "How they are known to be right", style="bold")
    fidelities = Counter(cell.fidelity for cell in project.cells.values() if cell.status == "replayed")
    replays = [replay for part in asked for replay in project.replays_of(part)]
    records = sum(replay.compared_records for replay in replays)
    digests = sum(replay.compared_digests for replay in replays)
    said = ", ".join(f"{counted(count, 'cell')} {fidelity}" for fidelity, count in fidelities.items())
    say(
        f"  {said}.",
        "  What a replay executes again emits its old records again and reaches its old states again:",
        f"  {records} records and {digests} digests of states were compared with the recorded ones, bit for bit.",
    )


def say_what_it_cost(project: Project, trainings: Sequence[float], asked: Sequence[Asked]) -> None:
    say("", "What it cost against training again", style="bold")
    columns = ("runs", "training CPU", "replays CPU", "in Dagster", "step loops put back", "executed")
    table = plain_table("asked", *columns, right=columns)
    for part in asked:
        replays = project.replays_of(part)
        replayed = {replay.run_id for replay in replays}
        trained = sum(
            seconds for run, seconds in zip(project.runs, trainings, strict=True) if run.id in replayed
        )
        used = sum(replay.plan["cpu_seconds"] for replay in replays)
        steps = sum(loop.name == "step" for run in replayed for loop in project.workspace.store.loops(run))
        put_back = sum(replay.plan["skipped"] for replay in replays)
        cost = (f"{trained:.1f} s", f"{used:.1f} s", f"{part.seconds:.1f} s")
        table.add_row(
            ", ".join(part.statements), str(len(replayed)), *cost, str(put_back), str(steps - put_back)
        )
    console.print(table)
    say(
        "  CPU: the seconds that the processes of trainings and replays used, added up; for the replays, libraries are",
        "  imported once. In Dagster: from launch to end by the clock, with replays side by side.",
        "  weight_norm and update_ratio stand outside the step loop: where a checkpoint of its end was kept and fits,",
        "  that is put back and no step is executed; a run that does not fit is executed from its beginning.",
        "  grad_norm stands inside the step loop: every step is executed again, and its own computation besides. A",
        "  training with the statement in it would use as much.",
    )


if __name__ == "__main__":
    sys.exit(main())
