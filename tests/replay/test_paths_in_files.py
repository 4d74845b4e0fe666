"""Paths that a copied home names lead nowhere but below their folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from flor_dagster.errors import FlorError
from flor_dagster.replay.answers import Answer, Answers, give_back
from flor_dagster.replay.inputs import Inputs, put_kept, read_inputs
from flor_dagster.replay.record import RunRecord

RUN = "abcdefghijklmnop"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / ".flor" / "runs" / RUN / "inputs"
    folder.mkdir(parents=True)
    (folder / "1").write_text("theirs")
    return tmp_path / ".flor"


def record() -> RunRecord:
    return RunRecord({"started": 10, "run": RUN}, {}, {}, [], [], {}, {}, {}, None)


@pytest.mark.parametrize(
    "name", ["../victim.txt", "a/../../victim.txt", "{root}/victim.txt", "..", "./../victim.txt"]
)
def test_a_copied_home_overwrites_nothing_outside_of_the_checkout(
    home: Path, tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    named = name.replace("{root}", str(tmp_path))
    (home / "runs" / RUN / "files.jsonl").write_text(f'[[],{{"begun":1}}]\n["{named}",6,5,"1"]\n')
    put_kept(read_inputs(home, RUN, record()), checkout)
    assert victim.read_text() == "mine"
    assert list(checkout.iterdir()) == []


def test_a_copy_is_taken_from_the_runs_own_folder_alone(home: Path, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("mine")
    for copy in ("../../../../private", str(tmp_path / "private")):
        (home / "runs" / RUN / "files.jsonl").write_text(f'["a.pt",6,5,"{copy}"]\n')
        with pytest.raises(FlorError, match="is no name of a kept file"):
            read_inputs(home, RUN, record())
    (home / "runs" / RUN / "inputs" / "2").symlink_to(tmp_path / "private")
    (home / "runs" / RUN / "files.jsonl").write_text('["a.pt",6,5,"2"]\n')
    assert read_inputs(home, RUN, record()).kept == {}


def test_nothing_is_put_through_a_folder_that_is_linked_into_the_checkout(tmp_path: Path, home: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "last.pt").write_text("mine")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "data").symlink_to(tmp_path / "data")
    kept = {"data/last.pt": home / "runs" / RUN / "inputs" / "1"}
    with pytest.raises(FlorError, match="is linked into replays"):
        put_kept(Inputs(True, {"data/last.pt": (6, 5)}, kept, 10), checkout)
    assert (tmp_path / "data" / "last.pt").read_text() == "mine"


@pytest.mark.parametrize("path", ["..", "../victim", "a/../../victim", "."])
def test_what_was_missing_is_taken_out_of_the_checkout_alone(tmp_path: Path, path: str) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "a").mkdir(parents=True)
    (tmp_path / "victim").mkdir()
    told = (Answer(True, True, {"is": "missing"}), Answer(True, True, {"is": "file", "time": 5}))
    give_back(
        Answers({"asked": {path: told}, "listed": {path: (Answer(True, True, {"names": [".git"]}),)}}),
        checkout,
        tmp_path / "root",
        9e9,
    )
    assert (tmp_path / "victim").is_dir()
    assert not (tmp_path / ".git").exists()
    assert (checkout / "a").is_dir()
