"""A project says in its pyproject.toml what stays out of its versions; a mistake there stops nothing."""

from pathlib import Path

from flor_dagster.versions.secrets import SECRET_PATTERNS
from flor_dagster.versions.settings import SnapshotSettings, read_settings
from flor_dagster.versions.snapshot import snapshot


def names(repo):
    return set(repo.git("ls-tree", "-r", "--name-only", snapshot(repo.root).commit).split())


def test_patterns_and_limits_of_the_project_hold(repo):
    repo.write("pyproject.toml", '[tool.flor]\nsecrets = ["*.vault", "!public.pem"]\nmax-file-mb = 0.001\n')
    for name in ("a.vault", "public.pem", "private.pem"):
        repo.write(name, "x")
    repo.write("big.py", "#" * 1001)
    repo.write("small.py", "#" * 1000)
    version = snapshot(repo.root)
    assert set(dict(version.excluded)) == {"a.vault", "private.pem", "big.py"}
    assert {"public.pem", "small.py"} <= names(repo)
    assert version.warnings == ()


def test_a_mistake_is_a_warning_and_the_defaults_hold(repo):
    for text in (
        "not toml [",
        '[tool.flor]\nsecrets = "*.x"\nmax-file-mb = "many"\n',
        "[tool.flor]\nmax-total-mb = -1\n",
    ):
        repo.write("pyproject.toml", text)
        repo.write(".env", "KEY=1")
        version = snapshot(repo.root)
        assert version.warnings
        assert ".env" in dict(version.excluded)


def test_without_a_file_or_a_table_the_defaults_hold(tmp_path: Path):
    assert read_settings(tmp_path) == SnapshotSettings()
    (tmp_path / "pyproject.toml").write_text("tool = 3\n")
    assert read_settings(tmp_path).secrets == SECRET_PATTERNS
