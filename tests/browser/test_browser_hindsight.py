"""The main job as a person does it, by mouse, in order: each test goes on where the one before stopped."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from flor_dagster.replay.workspace import Workspace
from tests.browser.conftest import REDEFINED, VIEWPORT, Server, wait_for
from tests.orchestration import toy_project

pytestmark = pytest.mark.browser

Shot = Callable[[str], None]


def replays(server: Server) -> int:
    """How many children were started for answers."""
    with Workspace.open(server.repo) as workspace:
        return len(workspace.store.replays())


def open_matrix(server: Server, page: Any) -> None:
    page.goto(f"{server.url}/assets/toy/hindsight?view=partitions")
    page.get_by_placeholder("Filter by statement…").wait_for()
    page.get_by_text(re.compile(r"Missing \(\d+\)")).wait_for()


def pick(page: Any, key: str) -> None:
    """Click a key in one of the matrix's lists. Long keys are cut in their middle, beside a hidden whole copy."""
    shown = page.locator("[class*=MiddleTruncate]:visible")
    text = key if len(key) > 20 else re.compile(f"^({key})+$")
    shown.filter(has_text=text).last.click()


def open_cell(page: Any, run: str, statement: str) -> None:
    pick(page, run)
    pick(page, statement)
    page.get_by_text(f"{run}|{statement}", exact=True).first.wait_for()


def launch_backfill(server: Server, page: Any, shot: Shot, name: str = "") -> None:
    """Ask everything of every training run, in the dialog."""
    before = len(server.backfills())
    open_matrix(server, page)
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Launch runs to materialize").wait_for()
    for dimension in range(2):
        dialog.get_by_role("button", name="All", exact=True).nth(dimension).click()
    dialog.get_by_text(re.compile(r"^[1-9]\d* partitions$")).wait_for()
    if name:
        shot(name)
    dialog.get_by_role("button", name="Launch backfill").click()
    wait_for("the backfill", lambda: len(server.backfills()) > before, 20)


def test_terminal_runs_are_partitions_and_new_statements_are_grey_columns(
    server: Server, page: Any, shot: Shot
) -> None:
    wait_for("three training runs", lambda: len(server.keys("run")) == 3)
    wait_for("two questions", lambda: server.keys("statement") == ["gap", "bias_size"])
    open_matrix(server, page)
    page.get_by_text("Missing (6)").wait_for()
    shot("matrix-open")
    page.goto(f"{server.url}/assets/toy/runs?view=partitions")
    page.get_by_text("Materialized (3)").wait_for()
    pick(page, server.keys("run")[2])
    page.get_by_text("last loss").wait_for()
    page.get_by_text("finished after").wait_for()
    shot("training-run")


def test_a_training_asset_is_materialized_by_mouse_and_is_a_training_run(
    server: Server, page: Any, shot: Shot
) -> None:
    page.goto(f"{server.url}/assets/weighted")
    page.get_by_role("button", name="Materialize", exact=False).first.click()
    event = wait_for("the asset", lambda: server.materializations("weighted"))[0]
    assert any(tag["key"] == "flor/run" for tag in event["tags"])
    wait_for("its training run", lambda: len(server.keys("run")) == 4)
    toy_project.commit(server.repo, "a question to the asset", weighted_asset=toy_project.ASSET_ASKED)
    wait_for("its question", lambda: "asset_weight" in server.keys("statement"), 75)
    page.reload()
    page.get_by_text("training run").first.wait_for()
    shot("training-asset")


def test_a_backfill_launched_by_mouse_settles_every_cell_and_the_refused_one_says_so(
    server: Server, page: Any, shot: Shot
) -> None:
    launch_backfill(server, page, shot, "backfill-dialog")
    wait_for("12 green cells", lambda: server.counts()["materialized"] == 12, 150)
    runs = server.keys("run")
    open_matrix(server, page)
    page.get_by_text("Materialized (12)").wait_for()
    open_cell(page, runs[0], "gap")
    page.get_by_text("12 values, exact").first.wait_for()
    page.get_by_text('flor.log("gap", weight - noise)').first.wait_for()
    shot("cell-replayed")
    open_cell(page, runs[0], "bias_size")
    page.get_by_text(re.compile("refused: `bias_size` reads `bias`")).first.wait_for()
    shot("cell-refused")
    open_cell(page, runs[3], "asset_weight")
    page.get_by_text("3 values, exact").first.wait_for()
    shot("cell-of-asset")


def test_the_same_backfill_is_launched_again(server: Server, page: Any, shot: Shot) -> None:
    assert replays(server) == 4, "one child per training run"
    launch_backfill(server, page, shot)


def test_a_redefined_statement_is_a_new_grey_column(server: Server, page: Any, shot: Shot) -> None:
    toy_project.commit(server.repo, "another bias", train=REDEFINED)
    wait_for("the new definition", lambda: "bias_size:2" in server.keys("statement"), 75)
    open_matrix(server, page)
    page.get_by_text("Missing (4)").wait_for()
    page.locator("[class*=MiddleTruncate]:visible", has_text="bias_size:2").first.wait_for()
    shot("matrix-redefined")


def test_a_run_made_in_a_terminal_appears_with_what_it_recorded_itself(
    server: Server, page: Any, shot: Shot
) -> None:
    before = replays(server)
    toy_project.train(server.repo, args='{"rate": 0.05}')
    wait_for("its partition", lambda: len(server.keys("run")) == 5, 30)
    newest = server.keys("run")[-1]
    told = {f"{newest}|{key}" for key in ("gap", "bias_size:2")}
    wait_for(
        "its recorded cells",
        lambda: told <= {event["partition"] for event in server.materializations("toy", "hindsight")},
    )
    assert replays(server) == before
    open_matrix(server, page)
    open_cell(page, newest, "bias_size:2")
    page.get_by_text("recorded by the run itself: 3 values").first.wait_for()


def test_the_backfill_that_was_launched_again_started_no_child(server: Server, page: Any, shot: Shot) -> None:
    both = server.backfills()
    assert len(both) == 2
    for backfill in both:
        wait_for(
            "its Dagster runs", lambda backfill=backfill: server.statuses(backfill) == ["SUCCESS"] * 3, 120
        )
    assert replays(server) == 4
    page.goto(f"{server.url}/assets/toy/hindsight?view=checks")
    for _ in range(4):  # the page asks once for the checks' results, and a busy server may be too late for it
        page.get_by_text("replay_fidelity").first.wait_for()
        with contextlib.suppress(Exception):
            page.get_by_text("Passed").first.wait_for(timeout=15_000)
            break
        page.reload()
    page.get_by_text("Passed").first.wait_for()
    shot("replay-fidelity")


def test_a_schedule_switched_on_by_mouse_settles_the_open_cells_by_itself(
    server: Server, page: Any, shot: Shot
) -> None:
    page.goto(f"{server.url}/automation")
    page.get_by_text("toy_hindsight_schedule").first.wait_for()
    shot("automation")
    row = page.locator("[class*=row], [class*=Row], div").filter(has_text="toy_hindsight_schedule").filter(
        has=page.locator("input[type=checkbox] , [role=switch]")
    ).last  # fmt: skip
    for _ in range(5):  # the page is drawn anew while it loads, and a click in that moment is lost
        row.locator("label, [role=switch]").last.click()
        deadline = time.monotonic() + 8
        while not server.running_schedules() and time.monotonic() < deadline:
            time.sleep(0.5)
        if server.running_schedules():
            break
    assert server.running_schedules() == ["toy_hindsight_schedule"]
    cells = len(server.keys("run")) * len(server.keys("statement"))
    wait_for("no open cell", lambda: server.counts()["materialized"] == cells, 130)
    open_matrix(server, page)
    page.get_by_text("Missing (0)").wait_for()
    page.get_by_text(f"Materialized ({cells})").wait_for()
    open_cell(page, server.keys("run")[1], "bias_size:2")
    page.get_by_text("3 values, exact").first.wait_for()
    shot("matrix-settled")


def test_the_log_view_shows_the_values(server: Server, page: Any, shot: Shot) -> None:
    last = max(int(event["timestamp"]) for event in server.materializations("toy", "hindsight"))
    wait_for(
        "a refreshed view",
        lambda: int(server.materializations("toy", "log_view")[0]["timestamp"]) > last,
        60,
    )
    with Workspace.open(server.repo) as workspace:
        frame = workspace.store.dataframe("gap", "bias_size", "bias_size:1")
    page.set_viewport_size({"width": 1800, "height": 860})
    page.goto(f"{server.url}/assets/toy/log_view")
    page.get_by_text("Row count").wait_for()
    page.get_by_text("abs(bias) + 100").first.wait_for()
    shot("log-view-columns")
    for name in frame.columns[3:]:
        value = next(value for value in frame[name].dropna())
        page.get_by_text(re.compile(re.escape(str(value)[:10]))).first.wait_for()
    page.get_by_text("first rows").first.scroll_into_view_if_needed()
    page.mouse.move(600, 600)
    page.mouse.wheel(0, 500)
    shot("log-view")
    page.set_viewport_size(VIEWPORT)
    page.goto(f"{server.url}/assets/toy/log_view?view=checks")
    page.get_by_text("log_view_complete").first.wait_for()
    page.get_by_text("Every asked cell is settled").first.wait_for()


def test_a_query_is_typed_in_the_launchpad_that_is_filled_in(server: Server, page: Any, shot: Shot) -> None:
    page.goto(f"{server.url}/assets/toy/log_query")
    page.get_by_role("button", name="Materialize").first.wait_for()
    page.get_by_role("img", name="arrow_drop_down").first.click()
    page.get_by_role("menuitem", name="Open launchpad").click()
    page.get_by_text("order_by").first.wait_for()
    editor = page.locator(".CodeMirror").first
    editor.click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(
        "ops:\n  toy__log_query:\n    config:\n      columns: [loss, gap, bias_size]\n      where: epoch >= 2 and loss < 0.1\n"
        "      order_by: -loss\n      limit: 10\n      sql: ''\n"
    )
    page.wait_for_timeout(1500)
    shot("query-launchpad")
    page.get_by_role("button", name="Materialize").last.click()
    wait_for("the result", lambda: server.materializations("toy", "log_query"), 60)
    page.goto(f"{server.url}/assets/toy/log_query")
    page.get_by_text("epoch >= 2 and loss < 0.1").first.wait_for()
    shot("query-result")


def test_a_training_is_launched_from_its_launchpad(server: Server, page: Any, shot: Shot) -> None:
    page.goto(f"{server.url}/locations/definitions.py/jobs/toy_train/playground")
    page.get_by_text("entrypoint").first.wait_for()
    page.get_by_text("No errors").first.wait_for()
    shot("train-launchpad")
    before = len(server.keys("run"))
    page.get_by_role("button", name="Launch Run").click()
    wait_for("its partition", lambda: len(server.keys("run")) == before + 1, 60)
    newest = server.keys("run")[-1]

    def events() -> list[Any]:
        return [event for event in server.materializations("toy", "runs") if event["partition"] == newest]

    # The partition is registered before its event is stored.
    assert {"key": "flor/origin", "value": "dagster"} in wait_for("its event", events, 60)[0]["tags"]


def test_every_replayed_cell_has_as_many_rows_as_its_run_has_loop_contexts(server: Server) -> None:
    with Workspace.open(server.repo) as workspace:
        runs = {run.id: run for run in workspace.runs()}
        statements = {row.id: row for row in workspace.store.statements()}
        replayed = [cell for cell in workspace.store.cells() if cell.status == "replayed"]
        assert len(replayed) >= 8
        for cell in replayed:
            statement = statements[cell.statement_id]
            loops = [loop for loop in workspace.store.loops(cell.run_id) if loop.name == statement.loops[-1]]
            recorded = sum(loop.count for loop in loops)
            assert cell.rows == recorded, f"{runs[cell.run_id].key}|{statement.key}"
            assert (
                len(workspace.store.records(cell.run_id, names=[statement.name], origin="replayed"))
                >= recorded
            )
            assert cell.fidelity == "exact"
