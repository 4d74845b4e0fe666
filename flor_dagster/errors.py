"""The errors of flor_dagster: one tree, each message says what happened, where, and what to do next."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


class FlorError(Exception):
    """Base of every error that flor_dagster raises on purpose."""


class NoRepositoryError(FlorError):
    """A command needs a git repository and found none."""


class NoRunsError(FlorError):
    """A question was asked of a project that has no training runs."""


class UnknownNameError(FlorError):
    """No statement, run or column of that name is known."""


class SourceSyntaxError(FlorError):
    """A source file can't be parsed; the message names file and line."""


class PropagationError(FlorError):
    """Propagation was called with input that makes no sense (not a refusal: refusals are results)."""


class SnapshotError(FlorError):
    """The code of a training run could not be kept as a version."""


class StoreError(FlorError):
    """The log store can't be opened, read or written."""


class JournalError(FlorError):
    """A journal file is not one of ours, or of a later format."""


class CheckpointError(FlorError):
    """A checkpoint is missing, torn or does not fit the program that asks for it."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's content is not what was written."""


class ReplayError(FlorError):
    """A replay could not be planned or carried out."""


class QueryError(FlorError):
    """A query of the log view is refused or wrong."""


ODD = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What comes of reading a file that is well-formed and says something that nothing of ours writes."""


@contextmanager
def odd_content(what: str, kind: type[FlorError] = JournalError) -> Generator[None]:
    """Turn what comes of odd content into an error that names it.

    Args:
        what: what is read, and where it lies.
        kind: the error's.

    Raises:
        FlorError: what was read says something odd.
    """
    try:
        yield
    except ODD as error:
        said = f"{type(error).__name__}: {error}"[:200]
        raise kind(
            f"{what} says something that no recorder of flor_dagster writes ({said}); it was left as it is. Put the "
            "original file back, or move it away"
        ) from error
