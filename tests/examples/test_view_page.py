"""Every snippet of the page on the view runs, and what it shows is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

import flor_dagster as flor
from flor_dagster.cli import cli
from tests.replay.conftest import Lab, lab

__all__ = ["lab"]

PAGE = (Path(__file__).parents[2] / "docs" / "view.md").read_text()
BLOCKS = re.findall(r"^```(\w+)( script)?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_snippet_of_the_page_runs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = [text for _, kind, text in BLOCKS if kind]
    lab.commit({"train.py": script})
    lab.train(lr=0.1)
    lab.train(lr=0.5)
    monkeypatch.chdir(lab.root)
    shown: list[Any] = []
    for language, kind, text in BLOCKS:
        if language == "python" and not kind:
            shown += [eval(line, {"flor": flor}) for line in text.splitlines()]
        if language == "console":
            _run(text)
    assert all(isinstance(frame, pd.DataFrame) and len(frame) for frame in shown)
    first, by_pattern, at_epoch, at_run, where, runs, latest, sql, *question = shown
    assert list(first.columns) == ["run", "epoch", "val_loss"]
    assert list(by_pattern.columns) == ["run", "epoch", "val_loss", "args.lr", "run.status"]
    assert len(at_epoch) == 24
    assert at_run["val_loss"].tolist() == [1 / (0.1 * 12), 1 / (0.5 * 12)]
    assert set(where["epoch"]) == set(range(3, 12))
    assert (len(runs), latest["run"].nunique(), sql["n"].tolist()) == (1, 1, [24])
    assert question[0]["args.lr"].tolist() == question[1]["lr"].tolist() == [0.5]


def _run(text: str) -> None:
    """Each command of a block, with what the block shows of its output."""
    command, said = "", list[str]()
    for line in [*text.splitlines(), "$ "]:
        if not line.startswith("$ "):
            said.append(line)
            continue
        if command:
            done = CliRunner().invoke(cli, shlex.split(command)[1:])
            assert (done.exit_code == 0) == (not said), (command, done.output)
            if said:
                assert done.output.splitlines() == said
        command, said = line.removeprefix("$ "), []
