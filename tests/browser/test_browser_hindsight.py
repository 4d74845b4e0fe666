"""The main job as a person does it, by mouse, in order: each test goes on where the one before stopped."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from flor_dagster.replay.workspace import Workspace
from tests.browser.conftest import REDEFINED, VIEWPORT, Server, see, wait_for
from tests.orchestration import toy_project

pytestmark = [pytest.mark.ci, pytest.mark.browser]

Shot = Callable[[str], None]


def replays(server: Server) -> int:
    """How many children were started for answers."""
    with Workspace.open(server.repo) as workspace:
        return len(workspace.store.replays())


def text(page: Any, wanted: str | re.Pattern[str]) -> Callable[[], None]:
    """A step: wait for a text."""
    return lambda: page.get_by_text(wanted).first.wait_for()


def see_matrix(server: Server, page: Any, *steps: Callable[[], Any]) -> None:
    """Open the matrix of cells and take steps on it."""
    see(
        page,
        f"{server.url}/assets/toy/hindsight?view=partitions",
        lambda: page.get_by_placeholder("Filter by statement…").wait_for(),
        text(page, re.compile(r"Missing \(\d+\)")),
        *steps,
    )


def pick(page: Any, key: str) -> None:
    """Click a key in one of the matrix's lists. Long keys are cut in their middle, beside a hidden whole copy."""
    shown = page.locator("[class*=MiddleTruncate]:visible")
    whole = key if len(key) > 20 else re.compile(f"^({key})+$")
    shown.filter(has_text=whole).last.click()


def cell(page: Any, run: str, statement: str, *told: str | re.Pattern[str]) -> Callable[[], None]:
    """A step: open a cell of the matrix and read what it says."""

    def step() -> None:
        pick(page, run)
        pick(page, statement)
        page.get_by_text(f"{run}|{statement}", exact=True).first.wait_for()
        for part in told:
            page.get_by_text(part).first.wait_for()

    return step


def launch_backfill(server: Server, page: Any, shot: Shot, name: str = "") -> None:
    """Ask everything of every training run, in the dialog."""
    before = len(server.backfills())
    dialog = page.get_by_role("dialog")

    def fill_in() -> None:
        page.get_by_role("button", name="Materialize").first.click()
        dialog.get_by_text("Launch runs to materialize").wait_for()
        for dimension in range(2):
            dialog.get_by_role("button", name="All", exact=True).nth(dimension).click()
        dialog.get_by_text(re.compile(r"^[1-9]\d* partitions$")).wait_for()

    see_matrix(server, page, fill_in)
    if name:
        shot(name)
    dialog.get_by_role("button", name="Launch backfill").click()
    wait_for("the backfill", lambda: len(server.backfills()) > before, 20)


def test_terminal_runs_are_partitions_and_new_statements_are_grey_columns(
    server: Server, page: Any, shot: Shot
) -> None:
    wait_for("three training runs", lambda: len(server.keys("run")) == 3)
    wait_for("two questions", lambda: server.keys("statement") == ["gap", "bias_size"])
    see_matrix(server, page, text(page, "Missing (6)"))
    shot("matrix-open")
    see(
        page,
        f"{server.url}/assets/toy/runs?view=partitions",
        text(page, "Materialized (3)"),
        lambda: pick(page, server.keys("run")[2]),
        text(page, "last loss"),
        text(page, "finished after"),
    )
    shot("training-run")


def test_a_training_asset_is_materialized_by_mouse_and_is_a_training_run(
    server: Server, page: Any, shot: Shot
) -> None:
    materialize = page.get_by_role("button", name="Materialize", exact=False).first
    see(page, f"{server.url}/assets/weighted", materialize.wait_for)
    materialize.click()
    event = wait_for("the asset", lambda: server.materializations("weighted"))[0]
    assert any(tag["key"] == "flor/run" for tag in event["tags"])
    wait_for("its training run", lambda: len(server.keys("run")) == 4)
    toy_project.commit(server.repo, "a question to the asset", weighted_asset=toy_project.ASSET_ASKED)
    wait_for("its question", lambda: "asset_weight" in server.keys("statement"), 75)
    see(page, f"{server.url}/assets/weighted", text(page, "training run"))
    shot("training-asset")


def test_a_backfill_launched_by_mouse_settles_every_cell_and_the_refused_one_says_so(
    server: Server, page: Any, shot: Shot
) -> None:
    launch_backfill(server, page, shot, "backfill-dialog")
    wait_for("12 green cells", lambda: server.counts()["materialized"] == 12, 150)
    runs = server.keys("run")
    see_matrix(
        server,
        page,
        text(page, "Materialized (12)"),
        cell(page, runs[0], "gap", "12 values, exact", 'flor.log("gap", weight - noise)'),
    )
    shot("cell-replayed")
    see_matrix(
        server, page, cell(page, runs[0], "bias_size", re.compile("refused: `bias_size` reads `bias`"))
    )
    shot("cell-refused")
    see_matrix(server, page, cell(page, runs[3], "asset_weight", "3 values, exact"))
    shot("cell-of-asset")


def test_the_same_backfill_is_launched_again(server: Server, page: Any, shot: Shot) -> None:
    assert replays(server) == 4, "one child per training run"
    launch_backfill(server, page, shot)


def test_a_redefined_statement_is_a_new_grey_column(server: Server, page: Any, shot: Shot) -> None:
    toy_project.commit(server.repo, "another bias", train=REDEFINED)
    wait_for("the new definition", lambda: "bias_size:2" in server.keys("statement"), 75)
    column = page.locator("[class*=MiddleTruncate]:visible", has_text="bias_size:2").first
    see_matrix(server, page, text(page, "Missing (4)"), column.wait_for)
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
    see_matrix(server, page, cell(page, newest, "bias_size:2", "recorded by the run itself: 3 values"))


def test_the_backfill_that_was_launched_again_started_no_child(server: Server, page: Any, shot: Shot) -> None:
    both = server.backfills()
    assert len(both) == 2
    for backfill in both:
        wait_for(
            "its Dagster runs", lambda backfill=backfill: server.statuses(backfill) == ["SUCCESS"] * 3, 120
        )
    assert replays(server) == 4
    see(
        page,
        f"{server.url}/assets/toy/hindsight?view=checks",
        text(page, "replay_fidelity"),
        text(page, "Passed"),
    )
    shot("replay-fidelity")


def test_a_schedule_switched_on_by_mouse_settles_the_open_cells_by_itself(
    server: Server, page: Any, shot: Shot
) -> None:
    see(page, f"{server.url}/automation", text(page, "toy_hindsight_schedule"))
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
    see_matrix(
        server,
        page,
        text(page, "Missing (0)"),
        text(page, f"Materialized ({cells})"),
        cell(page, server.keys("run")[1], "bias_size:2", "3 values, exact"),
    )
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
    values = [next(value for value in frame[name].dropna()) for name in frame.columns[3:]]
    see(
        page,
        f"{server.url}/assets/toy/log_view",
        text(page, "Row count"),
        text(page, "abs(bias) + 100"),
        lambda: shot("log-view-columns"),
        *[text(page, re.compile(re.escape(str(value)[:10]))) for value in values],
    )
    page.get_by_text("first rows").first.scroll_into_view_if_needed()
    page.mouse.move(600, 600)
    page.mouse.wheel(0, 500)
    shot("log-view")
    page.set_viewport_size(VIEWPORT)
    see(
        page,
        f"{server.url}/assets/toy/log_view?view=checks",
        text(page, "log_view_complete"),
        text(page, "Every asked cell is settled"),
    )


def test_a_query_is_typed_in_the_launchpad_that_is_filled_in(server: Server, page: Any, shot: Shot) -> None:
    see(
        page,
        f"{server.url}/assets/toy/log_query",
        page.get_by_role("button", name="Materialize").first.wait_for,
        page.get_by_role("img", name="arrow_drop_down").first.click,
        page.get_by_role("menuitem", name="Open launchpad").click,
        text(page, "order_by"),
    )
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
    see(page, f"{server.url}/assets/toy/log_query", text(page, "epoch >= 2 and loss < 0.1"))
    shot("query-result")


def test_a_training_is_launched_from_its_launchpad(server: Server, page: Any, shot: Shot) -> None:
    see(
        page,
        f"{server.url}/locations/definitions.py/jobs/toy_train/playground",
        text(page, "entrypoint"),
        text(page, "No errors"),
    )
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
