"""`flor doctor` names what keeps a loop from being skipped, with file and line, and what past runs said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flor_dagster.cli import cli
from flor_dagster.replay.health import whose_home
from tests.replay.conftest import Lab, lab

__all__ = ["lab"]


def doctor(lab: Lab, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(cli, ["doctor", *arguments, "--json", "--project", str(lab.root)])
    return done.exit_code, json.loads(done.stdout)


def loops(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {loop["name"]: loop for loop in document["loops"]}


def test_what_the_latest_run_could_not_capture_is_shown_at_its_loop(lab: Lab) -> None:
    script = (
        "import flor_dagster as flor\n"
        "numbers = iter(range(1000))\n"
        "total = 0\n"
        "for epoch in flor.loop('epoch', range(2)):\n"
        "    for step in flor.loop('step', range(2)):\n"
        "        total += next(numbers)\n"
        "    flor.log('total', total)\n"
        "for fine in flor.loop('fine', range(2)):\n"
        "    done = 2 * fine\n"
        "print(done)\n"
    )
    lab.commit({"train.py": script})
    status, before = doctor(lab, "train.py")
    assert status == 1
    assert loops(before)["fine"]["skippable"], "before any training, from the source alone"
    (obstacle,) = loops(before)["step"]["obstacles"]
    assert (obstacle["name"], obstacle["line"], obstacle["certain"]) == ("numbers", 2, True)
    lab.train()
    status, after = doctor(lab, "train.py")
    assert status == 1
    (seen,) = loops(after)["step"]["seen"]
    with lab.open() as workspace:
        (run,) = workspace.runs()
    assert seen.startswith(f"in run {run.key}: `step` could not be captured: `numbers`")
    assert loops(after)["fine"]["seen"] == []
    said = CliRunner().invoke(cli, ["doctor", "train.py", "--project", str(lab.root)])
    assert "train.py:5: loop `step` is executed in replays" in said.output
    assert seen in said.output


@pytest.mark.parametrize(
    ("code", "name", "part"),
    [
        ("for a, b in zip(flor.loop('x', range(3)), range(3)):\n    pass\n", "", "consumed by `zip(…)`"),
        ("items = list(flor.loop('x', range(3)))\n", "", "no `for` statement"),
        ("items = [i for i in flor.loop('x', range(3))]\n", "", "no `for` statement"),
        ("def f():\n    for i in flor.loop('x', range(3)):\n        yield i\n", "", "yields or awaits"),
        ("for i in flor.loop('x', range(3)):\n    exec('i')\n", "", "calls `exec`"),
        ("for i in flor.loop('x', range(3)): print(i)\n", "", "line of the `for`"),
        ("it = iter([1])\nfor i in flor.loop('x', it):\n    pass\n", "it", "unconsumed"),
        ("g = (i for i in [1])\nfor i in flor.loop('x', range(1)):\n    next(g)\n", "g", "a generator"),
    ],
)
def test_what_the_source_alone_forbids_is_named_with_a_hint(
    lab: Lab, code: str, name: str, part: str
) -> None:
    lab.commit({"train.py": "import helper\n", "helper.py": "import flor_dagster as flor\n" + code})
    status, document = doctor(lab, "train.py")
    assert status == 1
    loop = loops(document)["x"]
    assert (loop["file"], loop["skippable"]) == ("helper.py", False)
    (obstacle, *_) = [one for one in loop["obstacles"] if part in one["sentence"]]
    assert obstacle["name"] == name
    assert obstacle["hint"]
    assert obstacle["line"] >= 2


def test_open_files_and_clocks_are_told_and_are_no_problem_by_themselves(lab: Lab) -> None:
    code = (
        "import time\nfrom flor_dagster import loop as over\n"
        "out = open('out.txt', 'w')\n"
        "for i in over('x', range(3)):\n    now = time.time()\n    out.write(str(i))\n"
        "print(now)\n"
    )
    lab.commit({"train.py": code})
    status, document = doctor(lab, "train.py")
    assert status == 0
    sentences = [one["sentence"] for one in loops(document)["x"]["obstacles"]]
    assert any("`out` is an open file" in sentence for sentence in sentences)
    assert any("`now` holds a time" in sentence for sentence in sentences)


def test_health_names_what_is_missing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    status, document = doctor(lab)
    levels = {check["name"]: check["level"] for check in document["checks"]}
    assert (status, document["fine"], levels["hash seed"]) == (0, True, "warning")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    levels = {check["name"]: check["level"] for check in doctor(lab)[1]["checks"]}
    assert levels["hash seed"] == levels["home"] == levels["git"] == levels["log store"] == "ok"
    broken = lab.root / ".flor" / "runs" / "broken"
    broken.mkdir(parents=True)
    header = ["flor", 99, {"run": "broken"}]
    (broken / "journal.0.jsonl").write_text(json.dumps(header) + "\n")
    status, document = doctor(lab)
    assert status == 1
    assert any("broken" in check["sentence"] for check in document["checks"] if check["level"] == "problem")
    assert doctor(lab, "absent.py")[0] == 1


def owner(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(check["level"], check["sentence"]) for check in document["checks"] if check["name"] == "owner"]


def test_a_home_that_others_may_read_or_write_is_named_with_what_mends_it(lab: Lab) -> None:
    lab.commit({"train.py": "import flor_dagster as flor\nflor.log('x', 1)\n"})
    lab.train()
    home = lab.root / ".flor"
    assert owner(doctor(lab)[1]) == [("ok", f"{home} is yours alone")]
    for mode, level, words in (
        (0o755, "warning", "can be read by others (mode 0755)"),
        (0o770, "warning", "can be written by the group "),
        (0o777, "problem", "can be written by everyone (mode 0777)"),
    ):
        home.chmod(mode)
        status, document = doctor(lab)
        ((found, sentence),) = owner(document)
        assert (found, status) == (level, int(level == "problem")), sentence
        assert words in sentence
        assert f"`chmod 700 {home}`" in sentence


def test_a_home_of_somebody_else_is_named_with_its_owner(tmp_path: Path) -> None:
    home = tmp_path / ".flor"
    (home / "runs" / "abc").mkdir(parents=True)
    home.chmod(0o700)
    (check,) = whose_home(home, os.getuid() + 1)
    assert check.level == "warning"
    assert f"(uid {os.getuid()}), not to you" in check.sentence
    assert "replay only what you would run" in check.sentence
