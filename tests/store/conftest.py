"""The stores that the tests take journals into: SQLite, and a throw-away PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flor_dagster.store import LogStore
from tests.store.store_lab import Lab


def _postgres_binaries() -> Path | None:
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "pg_ctl").exists()), None)


def _as_other(folder: Path) -> list[str]:
    """PostgreSQL refuses root: how to run it as somebody else."""
    if os.geteuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            os.chown(folder, user.pw_uid, user.pw_gid)
            if shutil.which("runuser"):
                return ["runuser", "-u", name, "--"]
    pytest.skip("PostgreSQL refuses to run as root, and there is no other user to run it as")
    raise AssertionError


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a throw-away PostgreSQL on a free loopback port."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'flor-dagster[postgres]'")
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL here: neither initdb on PATH nor /usr/lib/postgresql/*/bin")
    folder = Path(tempfile.mkdtemp(prefix="flor-postgres-"))
    prefix = _as_other(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"

    def run(*command: str) -> None:
        subprocess.run([*prefix, *command], check=True, capture_output=True, cwd=folder, timeout=120)

    try:
        run(
            str(binaries / "initdb"),
            "-D",
            str(data),
            "-U",
            "flor",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
            "--locale=C",
        )
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        run(
            str(binaries / "pg_ctl"), "-D", str(data), "-l", str(folder / "log"), "-o", options, "-w", "start"
        )
        yield f"postgresql://flor@127.0.0.1:{port}/postgres"
    finally:
        if (data / "postmaster.pid").exists():
            subprocess.run(
                [*prefix, str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop"],
                capture_output=True,
                cwd=folder,
                timeout=60,
                check=False,
            )
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def new_database(postgres: str) -> Callable[[], str]:
    """Makes an empty database on the throw-away server."""
    import psycopg

    def make() -> str:
        name = f"flor_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return postgres.rpartition("/")[0] + f"/{name}"

    return make


@pytest.fixture
def sqlite_lab(tmp_path: Path) -> Iterator[Lab]:
    home = tmp_path / ".flor"
    with LogStore.open(home / "flor.db") as store:
        yield Lab(home, store)


@pytest.fixture(params=["sqlite", "postgresql"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A project on each database."""
    home = tmp_path / ".flor"
    url = home / "flor.db" if request.param == "sqlite" else request.getfixturevalue("new_database")()
    with LogStore.open(url) as store:
        store.make_reader()
        yield Lab(home, store)
