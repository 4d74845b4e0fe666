"""Where the commits of a version's submodules lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flor_dagster.errors import NoRepositoryError
from flor_dagster.versions.command import GitError, borrowed, run
from flor_dagster.versions.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Mapping


def compare_loaded(repository: Repository, commit: str, loaded: Mapping[str, str]) -> list[str]:
    """Which files were, at the end of a training run, not as the version has them; those of submodules, too.

    Args:
        repository: The user's repository.
        commit: The version.
        loaded: Path in the repository to the git blob id of the bytes on disk when the training run ended.

    Returns:
        The paths whose content differs, or which the version lacks, sorted.
    """
    inner = [entry for entry in repository.entries(commit) if entry.is_submodule]
    if not inner:
        return repository.compare_loaded(commit, loaded)
    names = submodule_names(repository, commit)
    own = dict(loaded)
    different: list[str] = []
    for entry in inner:
        prefix = f"{entry.path}/"
        files = {path: own.pop(path) for path in list(own) if path.startswith(prefix)}
        if not files:
            continue
        found = find_submodule(repository, entry.path, entry.id, names.get(entry.path, entry.path))
        if found is None:
            different += files
            continue
        below = {path.removeprefix(prefix): blob for path, blob in files.items()}
        different += [prefix + path for path in compare_loaded(found, entry.id, below)]
    return sorted(different + repository.compare_loaded(commit, own))


def find_submodule(source: Repository, path: str, commit: str, name: str) -> Repository | None:
    """The repository here that holds a submodule's commit: its work tree, or what git keeps of one not checked out."""
    kept = [
        folder / "modules" / part for folder in (source.git_dir, source.common_dir) for part in (name, path)
    ]
    for place in (source.root / path, *kept):
        if not (place / ".git").exists() and not (place / "HEAD").is_file():
            continue
        try:
            inner = Repository(place)
            if inner.common_dir != source.common_dir and inner.has(commit):
                return inner
        except (GitError, NoRepositoryError):
            continue
    # What was kept beside, or the log store gave back, lies together with the outer repository's objects.
    return source if borrowed(source.root) and source.has(commit) else None


def submodule_names(source: Repository, commit: str) -> dict[str, str]:
    """Path to name, of a version's submodules: git keeps their repositories by name."""
    if ".gitmodules" not in source.files(commit):
        return {}
    listed = run(
        source.root,
        "config",
        f"--blob={commit}:.gitmodules",
        "-z",
        "--get-regexp",
        r"^submodule\..*\.path$",
        check=False,
    )
    names: dict[str, str] = {}
    for row in listed.paths:
        key, _, path = row.partition("\n")
        names[path] = key[len("submodule.") : -len(".path")]
    return names
