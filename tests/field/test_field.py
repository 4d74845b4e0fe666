"""Public programs at real commits: every answer is the oracle's, or refused for a true reason."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.field.lab import FieldLab, NotFetchedError, Program
from tests.field.programs import PROGRAMS

FALSE_ALARMS = 0.01


def test_every_program_names_three_commits_and_where_each_statement_goes() -> None:
    for program in PROGRAMS:
        assert len(program.versions) == 3
        assert len({version.commit for version in program.versions}) == 3
        assert all(len(version.commit) == 40 for version in program.versions)
        assert len({tuple(version.asked) for version in program.versions}) == 1
        assert all(len(version.asked) == 4 for version in program.versions)
        assert None not in program.versions[-1].asked.values()
        for version in program.versions:
            for name, edit in version.asked.items():
                assert edit is None or f'flor.log("{name}", ' in edit.lines


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("program", PROGRAMS, ids=[program.name for program in PROGRAMS])
def test_every_answer_is_the_oracles_or_refused(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = [name for name in program.needs if importlib.util.find_spec(name) is None]
    if lacking:
        pytest.skip(f"{program.name} needs {', '.join(lacking)}")
    monkeypatch.setenv("FLOR_CACHE", str(tmp_path / "cache"))
    try:
        lab = FieldLab(program, tmp_path)
    except NotFetchedError as error:
        pytest.skip(str(error))
    cells = lab.run()
    told = os.environ.get("FLOR_FIELD_RESULTS")
    if told:
        (Path(told) / f"{program.name}.json").write_text(
            json.dumps([asdict(cell) for cell in cells], indent=1)
        )
    assert [cell for cell in cells if cell.what == "wrong"] == []
    alarms = sum(cell.what == "diverged" for cell in cells)
    assert alarms <= FALSE_ALARMS * len(cells), [c.sentence for c in cells if c.what == "diverged"]
    assert [cell for cell in cells if not cell.good] == []
