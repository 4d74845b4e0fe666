"""What is recorded is nobody else's to read."""

from __future__ import annotations

import os
from pathlib import Path

from tests.recording.record_lab import Project


def test_a_home_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.run("import os\nos.umask(0)\nimport flor_dagster as flor\nflor.log('x', 1.0)\n")
    home = tmp_path / ".flor"
    assert home.stat().st_mode & 0o777 == 0o700
    assert project.journals[0].stat().st_mode & 0o077 == 0
    home.chmod(0o750)  # somebody shares it on purpose
    project.run("import flor_dagster as flor\nflor.log('x', 1.0)\n")
    assert home.stat().st_mode & 0o777 == 0o750
    assert os.listdir(home / "runs")
