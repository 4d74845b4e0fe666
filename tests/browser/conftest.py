"""A real Chromium against a real `dagster dev`, webserver and daemon, on a project that was trained in a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.orchestration import toy_project

SHOTS = "FLOR_SCREENSHOTS"
"""Environment variable: the folder in which screenshots are kept, if any."""

TRIES = 6
"""How often a page is opened before what it lacks is a failure."""

VIEWPORT = {"width": 1400, "height": 860}

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

DEFINITIONS = """\
import sys

import dagster as dg

import flor_dagster as flor

sys.path.insert(0, {repo!r})
from weighted_asset import weighted

project = flor.FlorProject("toy", repo={repo!r}, entrypoints=["train.py", weighted])
every_minute = flor.build_hindsight_schedule(project, cron_schedule="* * * * *", max_seconds=60)
defs = dg.Definitions.merge(
    flor.build_flor_definitions(project, schedules=[every_minute]), dg.Definitions(executor=dg.in_process_executor)
)
"""

NEWEST = toy_project.NEWEST.replace('    flor.log("size", abs(weight))\n', "")
REDEFINED = NEWEST.replace('flor.log("bias_size", abs(bias))', 'flor.log("bias_size", abs(bias) + 100)')

# The daemon takes a queued run from the queue once a second instead of every five.
INSTANCE = """\
telemetry: {enabled: false}
nux: {enabled: false}
run_coordinator:
  module: dagster._core.run_coordinator.queued_run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
"""


def wait_for(what: str, found: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Poll until something is there; fails, saying what was waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.5)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")


def see(page: Any, url: str, *steps: Callable[[], Any]) -> None:
    """Open a page and take steps on it that only look; where one is in vain, all anew.

    A page of the UI asks once for most of what it shows: where a busy server was too late for that, it stays empty.
    """
    from playwright.sync_api import Error

    for attempt in range(TRIES):
        try:
            page.goto(url)
            for step in steps:
                step()
        except Error:
            if attempt == TRIES - 1:
                raise
        else:
            return


class Server:
    """`dagster dev` on a free port of the loopback interface."""

    def __init__(self, folder: Path, repo: Path) -> None:
        self.repo = repo
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text(INSTANCE)
        (folder / "definitions.py").write_text(DEFINITIONS.format(repo=str(repo)))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "dagster.log"
        environment = {
            **toy_project.environment(),
            "DAGSTER_HOME": str(self.home),
            "FLOR_CACHE": str(folder / "cache"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "dagster", "dev", "-f", "definitions.py", "-h", "127.0.0.1", "-p", str(self.port),
                ],
                cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            wait_for("dagster dev", self._answers, 90)
        except AssertionError:
            self.stop()
            raise AssertionError(f"dagster dev did not start:\n{self.log.read_text()[-3000:]}") from None

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{self.url}/server_info", timeout=2).status == 200
        return False

    def stop(self) -> None:
        """End the server, its daemon and their children; only those."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)

    def ask(self, query: str, **variables: Any) -> Any:
        """GraphQL, to look only: everything that is done is done by mouse."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def keys(self, dimension: str) -> list[str]:
        """The keys of a dimension of `hindsight`, as Dagster has them."""
        query = """{ assetNodeOrError(assetKey: {path: ["toy", "hindsight"]}) { ... on AssetNode {
            partitionKeysByDimension { name partitionKeys } } } }"""
        node = self.ask(query)["assetNodeOrError"]
        by_name = {row["name"]: row["partitionKeys"] for row in node["partitionKeysByDimension"]}
        return by_name[dimension]

    def counts(self, asset: str = "hindsight") -> dict[str, int]:
        """How many partitions of an asset are materialized, failed, and there at all."""
        query = """query($path: [String!]!) { assetNodeOrError(assetKey: {path: $path}) { ... on AssetNode {
            partitionStats { numMaterialized numFailed numPartitions numMaterializing } } } }"""
        stats = self.ask(query, path=["toy", asset])["assetNodeOrError"]["partitionStats"]
        return {name.removeprefix("num").lower(): number for name, number in stats.items()}

    def backfills(self) -> list[str]:
        """The ids of all backfills, newest first."""
        query = "{ partitionBackfillsOrError { ... on PartitionBackfills { results { id } } } }"
        return [row["id"] for row in self.ask(query)["partitionBackfillsOrError"]["results"]]

    def statuses(self, backfill: str) -> list[str]:
        """The statuses of a backfill's Dagster runs. The daemon looks only every 30 s whether they are all over."""
        query = """query($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {
            ... on Runs { results { status } } } }"""
        return [row["status"] for row in self.ask(query, id=backfill)["runsOrError"]["results"]]

    def running_schedules(self) -> list[str]:
        """The names of the schedules that are switched on."""
        query = """{ repositoriesOrError { ... on RepositoryConnection { nodes { schedules {
            name scheduleState { status } } } } } }"""
        nodes = self.ask(query)["repositoriesOrError"]["nodes"]
        schedules = [schedule for node in nodes for schedule in node["schedules"]]
        return [row["name"] for row in schedules if row["scheduleState"]["status"] == "RUNNING"]

    def materializations(self, *path: str) -> list[dict[str, Any]]:
        """The events of an asset, newest first."""
        query = """query($path: [String!]!) { assetOrError(assetKey: {path: $path}) { ... on Asset {
            assetMaterializations(limit: 50) { partition timestamp tags { key value } runId } } } }"""
        return self.ask(query, path=list(path))["assetOrError"].get("assetMaterializations", [])


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium is. Without it these tests skip, saying so; in CI they fail."""
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
        None,
    )
    reason = "" if found else "no Chromium on this machine: `apt install chromium` runs the browser tests"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        reason = "the Python package playwright is not installed"
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason or found is None:
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[Server]:
    """The project, trained three times in a terminal before Dagster was there, and `dagster dev` on it."""
    folder = tmp_path_factory.mktemp("ui")
    repo = toy_project.make_project(folder / "toy", newest=NEWEST)
    # Not committed yet: a training run's version holds the files as they are.
    (repo / "weighted_asset.py").write_text(toy_project.ASSET)
    started = Server(folder, repo)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def page(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page of a fresh headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("chromium")),
            executable_path=chromium,
            headless=True,
            args=FLAGS,
            viewport=VIEWPORT,
        )
        page = context.pages[0]
        page.set_default_timeout(15_000)
        yield page
        context.close()


@pytest.fixture(scope="session")
def shot(page: Any) -> Callable[[str], None]:
    """Keep a screenshot, where FLOR_SCREENSHOTS names a folder."""

    def keep(name: str) -> None:
        if os.environ.get(SHOTS):
            folder = Path(os.environ[SHOTS])
            folder.mkdir(parents=True, exist_ok=True)
            page.mouse.move(700, 840)  # no tooltip in the picture
            page.wait_for_timeout(600)
            page.screenshot(path=str(folder / f"{name}.png"))

    return keep


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failing test shows what the server said and, where screenshots are kept, what the page showed."""
    report = yield
    found = getattr(item, "funcargs", {})
    if report.failed and "server" in found:
        said = [line for line in found["server"].log.read_text().splitlines() if " DEBUG " not in line]
        report.sections.append(("dagster dev", "\n".join(said[-150:])))
    if report.failed and "page" in found and os.environ.get(SHOTS):
        found["page"].screenshot(path=str(Path(os.environ[SHOTS]) / f"failed-{item.name}.png"))
    return report
