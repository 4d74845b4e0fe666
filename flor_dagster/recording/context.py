"""Loop contexts: where in the named loops a record was made."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flor_dagster.recording.journal import JournalWriter
    from flor_dagster.recording.loops import LoopExecution


class Iteration:
    """One iteration of one loop execution, or the run itself (no execution, id 0).

    `id` is its number in the journal once something was written in it, else None; `owner` is that journal.
    """

    __slots__ = ("children", "execution", "id", "index", "owner", "value")

    def __init__(self, owner: JournalWriter, execution: LoopExecution | None, index: int, value: Any) -> None:
        self.owner = owner
        self.execution = execution
        self.index = index
        self.value = value
        self.id: int | None = None if execution is not None else 0
        self.children: dict[str, int] | None = None

    def next_ordinal(self, name: str) -> int:
        """How many executions of a loop of this name were opened in this iteration before; counts this one."""
        if self.children is None:
            self.children = {}
        ordinal = self.children.get(name, 0)
        self.children[name] = ordinal + 1
        return ordinal

    def chain(self) -> Iterator[Iteration]:
        """This iteration and the ones around it, innermost first, without the run itself."""
        here: Iteration = self
        while here.execution is not None:
            yield here
            here = here.execution.parent


current: ContextVar[Iteration | None] = ContextVar("flor_iteration", default=None)
