from pathlib import Path

import pytest

from tests.distributed.rank_lab import Ranks


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ranks:
    monkeypatch.setenv("FLOR_CACHE", str(tmp_path / "cache"))
    return Ranks(tmp_path / "project")
