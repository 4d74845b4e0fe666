"""A likely place as a person meets it: a cell that waits, its diff, the link that fills in a launchpad, a click."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flor_dagster.replay.workspace import Workspace
from tests.browser.conftest import Server, wait_for
from tests.browser.test_browser_hindsight import cell, launch_backfill, see_matrix
from tests.orchestration import toy_project

pytestmark = [pytest.mark.ci, pytest.mark.browser]

Shot = Callable[[str], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[Server]:
    """A project whose trained version rounds what the newest one does not, and `dagster dev` on it."""
    folder = tmp_path_factory.mktemp("doubtful")
    repo = toy_project.make_doubtful_project(folder / "toy")
    (repo / "weighted_asset.py").write_text(toy_project.ASSET)
    started = Server(folder, repo)
    yield started
    started.stop()


def places(server: Server) -> dict[str, set[str | None]]:
    """What the cells of each statement say of its place."""
    with Workspace.open(server.repo) as workspace:
        keys = {row.id: row.key for row in workspace.store.statements()}
        found: dict[str, set[str | None]] = {}
        for one in workspace.store.cells():
            found.setdefault(keys[one.statement_id], set()).add(one.place)
    return found


def test_a_likely_place_is_confirmed_by_a_click_and_its_cells_are_answered(
    server: Server, page: Any, shot: Shot
) -> None:
    wait_for("two training runs", lambda: len(server.keys("run")) == 2)
    wait_for("three questions", lambda: len(server.keys("statement")) == 3)
    launch_backfill(server, page, shot)

    def over() -> bool:
        counts = server.counts()
        return counts["failed"] == 4 and counts["materialized"] == 2 and not counts["materializing"]

    wait_for("four cells that wait, two that are answered", over, 200)
    assert places(server) == {"gap": {"likely"}, "bias_size": {"certain"}, "size": {"likely"}}
    runs = server.keys("run")
    dialog = page.get_by_role("dialog")
    link = dialog.get_by_role("link", name="Confirm this place and answer its cells")
    see_matrix(
        server,
        page,
        cell(page, runs[0], "size"),
        page.get_by_text("View all historical events (1)").click,
        dialog.locator("[class*=disclosureTriangle]").first.click,
        dialog.get_by_text("likely: `weight = round").first.wait_for,
        dialog.get_by_text('flor.log("size", abs(weight))').first.wait_for,
        link.wait_for,
    )
    shot("cell-likely")
    link.click()
    for part in ("place likely", "places:", "No errors"):
        page.get_by_text(part).first.wait_for()
    shot("confirm-launchpad")
    page.get_by_role("button", name="Launch Run").click()
    wait_for("both cells are answered", lambda: server.counts()["materialized"] == 4, 150)
    assert places(server) == {"gap": {"likely"}, "bias_size": {"certain"}, "size": {"confirmed"}}
    see_matrix(
        server,
        page,
        cell(
            page, runs[0], "size", re.compile("3 values, exact, place confirmed"),
            re.compile("likely, confirmed by Dagster run"),
        ),
    )  # fmt: skip
    shot("cell-confirmed")
