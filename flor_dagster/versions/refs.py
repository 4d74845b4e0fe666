"""Refs of ours, written and dropped past the lock that a killed git left.

git writes a ref through a lock beside it, `<ref>.lock`. A git that is killed in that moment leaves the lock, and git
takes it for another one at work for ever after: the version of that very code could never be kept again, and none be
dropped together with it. All that is ever written to a ref of ours is the one value that its name stands for, so a lock
that nobody touches while git waits for it is taken away.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flor_dagster.versions.beside import Beside
    from flor_dagster.versions.command import Answer
    from flor_dagster.versions.repository import Repository

WAIT_SECONDS = 10.0
"""How long git waits for a lock. One that is held is held for milliseconds."""


def update_refs(repository: Repository | Beside, changes: Iterable[str]) -> Answer:
    """Change refs of ours, all of them or none; the caller looks at the answer's `status`.

    Args:
        repository: The repository that the refs lie in: the user's, or ours beside it.
        changes: Lines as `git update-ref --stdin` reads them: `update REF VALUE`, `delete REF VALUE`.
    """
    lines = list(changes)
    locks = [repository.common_dir / f"{line.split()[1]}.lock" for line in lines]
    before = {lock: found for lock in locks if (found := _identity(lock)) is not None}
    began = time.monotonic()
    answer = _update(repository, lines)
    waited = time.monotonic() - began >= WAIT_SECONDS * 0.9
    stale = [lock for lock, found in before.items() if waited and _identity(lock) == found]
    if answer.status == 0 or not stale:
        return answer
    for lock in stale:
        lock.unlink(missing_ok=True)
    return _update(repository, lines)


def _update(repository: Repository | Beside, lines: list[str]) -> Answer:
    wait = f"core.filesRefLockTimeout={WAIT_SECONDS * 1000:.0f}"
    stdin = "".join(f"{line}\n" for line in lines).encode()
    return repository.git("-c", wait, "update-ref", "--stdin", stdin=stdin, check=False)


def _identity(lock: Path) -> tuple[int, int, int] | None:
    """What tells a lock from a later one of the same name."""
    try:
        found = lock.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
