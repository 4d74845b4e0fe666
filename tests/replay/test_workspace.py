"""What a project promises: statements keep their identity, cells settle once, faults stay where they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flor_dagster.errors import NoRepositoryError, NoRunsError, SourceSyntaxError, UnknownNameError
from flor_dagster.replay.model import Question
from flor_dagster.replay.training import TrainingFailedError
from flor_dagster.replay.workspace import Workspace
from flor_dagster.store import statements
from tests.replay.conftest import PACKAGE, Lab, bits

SCRIPT = """\
import flor_dagster as flor
scale = flor.arg("scale", 2)
{before}
total = 0
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(4)):
        total += step * scale
        flor.log("partial", total)
        {inner}
    flor.log("total", total)
    {outer}
flor.log("end", total)
{after}
"""


def script(*, before: str = "", inner: str = "", outer: str = "", after: str = "") -> str:
    return SCRIPT.format(before=before, inner=inner, outer=outer, after=after)


def values(lab: Lab, name: str) -> list[object]:
    with lab.open() as workspace:
        frame = workspace.store.dataframe(name)
        return [bits(v) for v in frame[name]]


# Where a statement stands decides what is executed ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "rows", "steps", "totals"),
    [("before", 1, 0, 0), ("inner", 12, 12, 3), ("outer", 3, 0, 3), ("after", 1, 0, 0)],
)
def test_only_what_a_place_needs_is_executed(
    lab: Lab, place: str, rows: int, steps: int, totals: int
) -> None:
    lab.commit({"train.py": script()})
    lab.train(scale=3)
    expression = "scale * 10" if place == "before" else "total + scale"
    lab.write({"train.py": script(**{place: f'flor.log("asked", {expression})'})})
    with lab.open() as workspace:
        report = workspace.answer(Question(("asked",)))
        (answer,) = report.cells
        assert answer.cell.status == "replayed", answer.cell.sentence
        assert answer.cell.fidelity == ("unverified" if place == "before" else "exact"), answer.cell.sentence
        assert answer.cell.rows == rows
        (replay,) = report.replays
        assert lab.emitted(replay.id, "partial") == steps
        assert lab.emitted(replay.id, "total") == totals
    oracle = Lab(lab.root.parent / "oracle")
    oracle.commit({"train.py": script(**{place: f'flor.log("asked", {expression})'})})
    oracle.train(scale=3)
    with oracle.open() as workspace:
        workspace.sync()
    assert values(lab, "asked") == values(oracle, "asked")


def test_a_loop_that_was_broken_out_of_is_skipped_and_its_names_are_put_back(lab: Lab) -> None:
    text = """\
import flor_dagster as flor

def main():
    found = 0
    for epoch in flor.loop("epoch", range(4)):
        for step in flor.loop("step", range(100)):
            found += 1
            flor.log("found", found)
            if found % 5 == epoch:
                break
        flor.log("left_at", step)
        {more}

main()
"""
    lab.commit({"train.py": text.format(more="")})
    lab.train()
    lab.write({"train.py": text.format(more='flor.log("asked", step * 100 + found)')})
    with lab.open() as workspace:
        report = workspace.answer(Question(("asked",)))
        assert report.cells[0].cell.fidelity == "exact", report.cells[0].cell.sentence
        assert lab.emitted(report.replays[0].id, "found") == 0
        frame = workspace.store.dataframe("left_at", "asked")
        assert [int(v) // 100 for v in frame["asked"]] == list(frame["left_at"])


def test_a_flat_loop_is_entered_at_its_nearest_restore_point(lab: Lab) -> None:
    text = """\
import random
import flor_dagster as flor

def main():
    random.seed(5)
    state = 0.0
    for step in flor.loop("step", range(30)):
        state += random.random()
        flor.log("state", state)
        {more}

main()
"""
    lab.commit({"train.py": text.format(more="")})
    lab.train()
    lab.write({"train.py": text.format(more='flor.log("asked", state * 2)')})
    with lab.open() as workspace:
        report = workspace.answer(Question(("asked",), iterations={"step": (20, 22)}))
        (answer,) = report.cells
        assert (answer.cell.status, answer.cell.fidelity) == ("open", "exact"), answer.cell.sentence
        assert lab.emitted(report.replays[0].id, "state") == 3
        frame = workspace.store.dataframe("state", "asked").dropna()
        assert [bits(v) for v in frame["asked"]] == [bits(v * 2) for v in frame["state"]]


def test_a_loop_whose_end_state_cannot_be_captured_is_executed(lab: Lab) -> None:
    text = """\
import flor_dagster as flor
numbers = iter(range(1000))
total = 0
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(4)):
        total += next(numbers)
        flor.log("partial", total)
    flor.log("total", total)
    {more}
"""
    lab.commit({"train.py": text.format(more="")})
    lab.train()
    lab.write({"train.py": text.format(more='flor.log("asked", total * 2)')})
    with lab.open() as workspace:
        report = workspace.answer(Question(("asked",)))
        assert (report.cells[0].cell.status, report.cells[0].cell.fidelity) == ("replayed", "exact")
        assert lab.emitted(report.replays[0].id, "partial") == 12


# Cells --------------------------------------------------------------------------------------------------------------


def test_what_is_settled_is_not_computed_again(lab: Lab) -> None:
    lab.commit({"train.py": script()})
    lab.train()
    lab.train(scale=5)
    lab.write({"train.py": script(outer='flor.log("asked", total + 1)')})
    with lab.open() as workspace:
        assert workspace.answer(Question(("asked",))).children == 2
        again = workspace.answer(Question(("asked",)))
        assert again.children == 0
        assert {a.cell.status for a in again.cells} == {"replayed"}


def test_a_run_that_logs_the_statement_itself_is_settled_by_its_record(lab: Lab) -> None:
    lab.commit({"train.py": script()})
    lab.train()
    lab.commit({"train.py": script(outer='flor.log("asked", total + 1)')})
    lab.train()
    with lab.open() as workspace:
        report = workspace.answer(Question(("asked",)))
        assert [a.cell.status for a in report.cells] == ["replayed", "recorded"]
        assert report.children == 1


def test_two_callers_at_once_start_one_child(lab: Lab) -> None:
    lab.commit({"train.py": script()})
    lab.train()
    lab.write({"train.py": script(outer='flor.log("asked", total + 1)')})
    reports = []

    def ask() -> None:
        with lab.open() as workspace:
            reports.append(workspace.answer(Question(("asked",))))

    with lab.open() as workspace:
        workspace.discover()
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.cells[0].cell.status for r in reports] == ["replayed", "replayed"]
    assert sorted(r.children for r in reports) == [0, 1]


def test_a_question_within_a_time_leaves_the_rest_open(lab: Lab) -> None:
    lab.commit({"train.py": script()})
    lab.train()
    lab.train()
    lab.write({"train.py": script(outer='flor.log("asked", total + 1)')})
    with lab.open() as workspace:
        plan = workspace.plan(Question(("asked",)))
        one = max(p.estimated_seconds or 0 for p in plan.runs) * 1.5
        report = workspace.answer(Question(("asked",), max_seconds=one))
        assert sorted(a.cell.status for a in report.cells) == ["open", "replayed"]
        newest = workspace.runs()[-1]
        assert next(a for a in report.cells if a.cell.status == "replayed").run.key == newest.key


# Statements ---------------------------------------------------------------------------------------------------------


def test_another_expression_is_another_statement_and_a_moved_or_renamed_one_is_not(lab: Lab) -> None:
    lab.commit({"train.py": script()})
    lab.train()
    lab.write({"train.py": script(outer='flor.log("asked", total + 1)')})
    with lab.open() as workspace:
        assert [q.key for q in workspace.discover()] == ["asked"]
        workspace.answer(Question(("asked",)))
        renamed = script(outer='flor.log("asked",    sum_so_far + 1)  # moved').replace("total", "sum_so_far")
        lab.write({"train.py": renamed.replace('"sum_so_far"', '"total"')})
        assert [q.key for q in workspace.discover()] == ["asked"]
        lab.write({"train.py": script(outer='flor.log("asked", total + 2)')})
        assert [q.key for q in workspace.discover()] == ["asked", "asked:2"]
        report = workspace.answer(Question(("asked",)))
        assert [a.statement.key for a in report.cells] == ["asked:2"]
        new = list(workspace.store.dataframe("asked")["asked"])
        old = list(workspace.store.dataframe("asked:1")["asked:1"])
        assert new == [v + 1 for v in old]


def test_a_statement_under_any_name_of_the_import_is_found(lab: Lab) -> None:
    text = (
        script().replace("import flor_dagster as flor", "import flor_dagster as fl").replace("flor.", "fl.")
    )
    lab.commit({"train.py": text})
    lab.train()
    changed = text.replace(
        '    fl.log("total", total)', '    fl.log("total", total)\n    fl.log("asked", total + 1)'
    )
    lab.write({"train.py": changed})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",))).cells
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence


def test_a_run_of_uncommitted_code_is_replayed_as_it_ran(lab: Lab) -> None:
    lab.commit({"train.py": script()})
    lab.write({"train.py": script().replace("step * scale", "step * scale + 100")})
    lab.train()
    lab.write({"train.py": script(outer='flor.log("asked", total)')})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",), accept_likely=True)).cells
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence
        frame = workspace.store.dataframe("total", "asked")
        assert list(frame["total"]) == list(frame["asked"])
        assert frame["asked"].iloc[0] == 412


# Faults -------------------------------------------------------------------------------------------------------------


def test_an_old_version_that_fails_now_is_red_with_its_last_lines_and_the_others_finish(lab: Lab) -> None:
    lab.write({"data.txt": "3", ".gitignore": "data.txt\n"})
    needs_data = script(before='total = int(open("data.txt").read())')
    lab.commit({"train.py": needs_data})
    lab.train()
    lab.commit({"train.py": script()})
    lab.train()
    (lab.root / "data.txt").unlink()
    lab.write({"train.py": script(outer='flor.log("asked", total + 1)')})
    with lab.open() as workspace:
        report = workspace.answer(Question(("asked",)))
        first, second = report.cells
        assert (second.cell.status, second.cell.fidelity) == ("replayed", "exact")
        assert first.cell.status == "failed"
        assert "data.txt, which this run read, is missing" in first.cell.sentence
        tail = "\n".join(first.cell.detail["tail"])
        assert "data.txt" in tail
        assert f'{lab.root}/train.py", line 3' in tail, "the line is the old version's own"
        assert report.failed == (first,)


def test_an_expression_that_raises_is_an_error_of_its_loop_context_and_the_replay_goes_on(lab: Lab) -> None:
    lab.commit({"train.py": script()})
    lab.train()
    lab.write({"train.py": script(inner='flor.log("asked", 12 / (step - 2))')})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",))).cells
        assert answer.cell.rows == 12
        assert "ZeroDivisionError" in answer.cell.sentence
        assert "3 of 12" in answer.cell.sentence
        assert answer.cell.fidelity == "exact"


def test_a_killed_run_is_lost_and_can_still_be_asked(lab: Lab) -> None:
    text = (
        script(outer="time.sleep(0.05)")
        .replace("import flor", "import time\nimport flor")
        .replace("range(3)", "range(1000)")
    )
    lab.commit({"train.py": text})
    environment = os.environ | {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0"}
    child = subprocess.Popen([sys.executable, "train.py"], cwd=lab.root, env=environment)
    runs = lab.root / ".flor" / "runs"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        journals = list(runs.rglob("journal.0.jsonl"))
        ready = journals and (journals[0].parent / "version.json").exists()
        if ready and journals[0].read_text().count('"exhausted"') > 6:
            break
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    lab.write(
        {"train.py": text.replace("time.sleep(0.05)", 'flor.log("asked", total + 1)\n    time.sleep(0.05)')}
    )
    with lab.open() as workspace:
        workspace.sync()
        (run,) = workspace.runs()
        assert run.status == "lost"
        (answer,) = workspace.answer(Question(("asked",))).cells
        # The kill may come before anything was recorded behind the last checkpoint.
        end = "exact" if "nothing was compared after" not in answer.cell.sentence else "unverified"
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", end), answer.cell.sentence
        frame = workspace.store.dataframe("total", "asked", fidelity="any").dropna()
        assert len(frame) >= 6
        assert list(frame["asked"]) == [v + 1 for v in frame["total"]]


def test_what_a_killed_process_took_in_is_carried_through_by_the_next(lab: Lab) -> None:
    lab.commit({"train.py": script()})
    lab.train()
    with lab.open() as workspace:
        workspace.store.ingest_all(workspace.home)  # and it is killed before it has linked anything
        (run,) = workspace.runs()
        assert list(workspace.store.with_news()) == [run.id]
        assert {linked for *_, linked in workspace.store.call_sites(run.id)} == {None}
    with lab.open() as workspace:
        synced = workspace.sync()
        assert synced.runs == ()
        assert "total" in {statement.name for statement in synced.statements}
        assert None not in {linked for *_, linked in workspace.store.call_sites(run.id)}
        assert workspace.store.with_news() == {}


def test_a_run_without_a_repository_says_why_it_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(NoRepositoryError, match="no git repository around"):
        Workspace.open(tmp_path)


def test_questions_that_cannot_be_asked_say_so(lab: Lab) -> None:
    lab.commit({"train.py": script()})
    with lab.open() as workspace:
        with pytest.raises(NoRunsError, match="no training runs yet"):
            workspace.answer(Question(("total",)))
        lab.train()
        with pytest.raises(UnknownNameError, match="Did you mean `total`"):
            workspace.answer(Question(("totel",)))
        lab.write({"train.py": script() + "\nif True\n"})
        with pytest.raises(SourceSyntaxError, match=r"train\.py.*line"):
            workspace.discover()
        assert len(workspace.store.dataframe("total")) == 3, "nothing is lost"


def test_a_training_started_here_is_recorded_also_when_it_fails(lab: Lab) -> None:
    lab.commit({"train.py": script(after='raise RuntimeError("the end")')})
    with lab.open() as workspace:
        with pytest.raises(TrainingFailedError, match="the end") as caught:
            workspace.train("train.py", {"scale": "7"})
        assert caught.value.run is not None
        assert (caught.value.run.status, caught.value.run.args["scale"]) == ("failed", 7)
        lab.write({"train.py": script()})
        run = workspace.train("train.py", {"scale": 4}, tags={"why": "test"})
        assert (run.status, run.args, run.tags) == ("finished", {"scale": 4}, {"why": "test"})


def test_a_training_of_another_commit_is_recorded_as_that_version(lab: Lab) -> None:
    first = lab.commit({"train.py": script()})
    lab.commit({"train.py": script(outer='flor.log("more", 1)')})
    with lab.open() as workspace:
        run = workspace.train("train.py", {}, ref=first)
        assert run.commit == first
        lab.write({"train.py": script(outer='flor.log("asked", total + 1)')})
        (answer,) = workspace.answer(Question(("asked",))).cells
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence


def test_a_run_that_never_loaded_the_file_is_not_asked(lab: Lab) -> None:
    lab.commit({"train.py": script(), "other.py": 'import flor_dagster as flor\nflor.log("alone", 1)\n'})
    lab.train()
    lab.train("other.py")
    lab.write({"train.py": script(outer='flor.log("asked", total + 1)')})
    with lab.open() as workspace:
        report = workspace.answer(Question(("asked", "total")))
        by_run = {(a.run.entrypoint, a.statement.key): a.cell for a in report.cells}
        assert by_run["train.py", "asked"].status == "replayed"
        for key in ("asked", "total"):
            assert by_run["other.py", key].status == "refused"
            assert "never loaded train.py" in by_run["other.py", key].sentence
        assert report.children == 1


def test_a_run_of_many_names_is_taken_in_by_work_that_grows_with_their_number(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each statement is looked up by its own name; whoever reads all of them for each does it 200 times."""
    lines = "".join(f"flor.log('norm/{i}', {i})\n" for i in range(200))
    lab.commit({"train.py": f"import flor_dagster as flor\n{lines}"})
    lab.train()
    read: list[int] = []
    row_of = statements._row
    monkeypatch.setattr(statements, "_row", lambda row: read.append(1) or row_of(row))
    with lab.open() as workspace:
        workspace.sync()
        assert len(workspace.store.statements()) == 200
    assert len(read) < 200 * 10
