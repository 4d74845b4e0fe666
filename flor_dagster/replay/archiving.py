"""Versions travel into the log store, and come back from it where the repository has lost them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from flor_dagster.errors import FlorError, StoreError
from flor_dagster.versions.archive import needed, put_back, take_out
from flor_dagster.versions.clone import Clone
from flor_dagster.versions.command import borrow

if TYPE_CHECKING:
    from flor_dagster.store import LogStore
    from flor_dagster.versions import Repository

_log = logging.getLogger(__name__)


def archive_versions(repository: Repository, store: LogStore) -> None:
    """Keep in the log store what it lacks of the versions that the repository has."""
    lacking = store.unarchived_versions()
    gone = set(repository.lacking(lacking))
    for commit in lacking:
        if commit in gone:
            continue
        try:
            taken = take_out(repository, commit, store.known_objects)
            store.archive_version(commit, taken.objects, taken.left_out)
        except StoreError:
            raise
        except FlorError as error:
            _log.warning("the version %s is not in the log store yet: %s", commit, error)


def give_back_versions(repository: Repository, store: LogStore, cache: Path) -> list[str]:
    """Lend the repository the versions that it has lost: to our own commands, in a folder of ours; nothing is written to it.

    Returns:
        The versions that neither the repository nor the log store has.
    """
    gone = repository.lacking(version.commit for version in store.versions())
    if not gone:
        return []
    folder = Clone.open(repository.root, cache).place / "objects"
    put_back(needed(gone, store.version_object), folder)
    for place in (repository.root, repository.common_dir):
        borrow(place, folder)
    return repository.lacking(gone)
