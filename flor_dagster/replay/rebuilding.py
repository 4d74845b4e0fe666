"""Making a project's log store anew: from the journals of its runs and replays, its ledger and its repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flor_dagster.errors import NoRepositoryError
from flor_dagster.recording import layout
from flor_dagster.replay.workspace import Workspace
from flor_dagster.store.damage import is_damaged, put_away

if TYPE_CHECKING:
    from flor_dagster.store.models import Rebuilt


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a rebuild did.

    Attributes:
        rebuilt: What there is now, and what could not be had.
        put_away: Where the files of a damaged database lie now; empty where it was none.
    """

    rebuilt: Rebuilt
    put_away: tuple[Path, ...] = ()


def rebuild_project(root: Path | None = None, *, accept_loss: bool = False) -> Renewed:
    """Make the log store of a project anew. A SQLite file that is damaged is put away first, beside the new one.

    Args:
        root: a folder in the repository; None takes the working directory.
        accept_loss: also where the database holds what the files do not have any more.

    Raises:
        NoRepositoryError: there is no git repository around the folder.
        StoreError: the database alone has something, and it was left as it is.
    """
    start = Path.cwd() if root is None else root
    place = layout.find_place(start)
    if place is None:
        raise NoRepositoryError(
            f"there is no git repository around {start.absolute()}: nothing can be rebuilt"
        )
    away = tuple(put_away(place.home / "flor.db")) if is_damaged(place.home / "flor.db") else ()
    with Workspace.open(start) as workspace:
        rebuilt = workspace.store.rebuild(accept_loss=accept_loss)
        workspace.sync()
    return Renewed(rebuilt, away)
