"""What is left to do, while a question is answered: only on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from flor_dagster.cli.output import Output
    from flor_dagster.replay.model import Plan


class Remaining:
    """The time that is left: the estimates of what is open, corrected by how far off the finished ones were.

    Args:
        workers: children at once.
        clock: tells the seconds.
    """

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._workers = max(workers, 1)
        self._open: dict[str, float] = {}
        self._cells: dict[str, int] = {}
        self._done = 0.0
        self._begun = self._clock()
        self.runs = 0
        self.finished = 0

    def planned(self, plan: Plan) -> None:
        """The plan is known: nothing was started yet."""
        todo = [part for part in plan.runs if part.todo]
        self._open = {part.run.id: part.estimated_seconds or 0.0 for part in todo}
        self._cells = {part.run.id: len(part.todo) for part in todo}
        self.runs = len(todo)
        self._begun = self._clock()

    def told(self, run: str) -> None:
        """One cell of a run is known."""
        if run not in self._cells:
            return
        self._cells[run] -= 1
        if self._cells[run] == 0:
            del self._cells[run]
            self._done += self._open.pop(run)
            self.finished += 1

    def seconds(self) -> float:
        """How long it should still take."""
        passed = self._clock() - self._begun
        left = sum(self._open.values())
        workers = min(self._workers, max(self.runs, 1))
        # What the finished part took, for every second that it was estimated at: the correction that was earned so far.
        rate = passed * workers / self._done if self._done else 1.0
        under_way = 0.0 if self._done else passed
        return max(left * rate / workers - under_way, 0.0)

    @property
    def sentence(self) -> str:
        """In words."""
        if not self.runs:
            return "planning"
        left = self.seconds()
        about = (
            f"about {left:.0f} s left" if left >= 1 else "longer than estimated" if self._open else "ending"
        )
        return f"{self.finished} of {self.runs} training runs, {about}"


@contextlib.contextmanager
def shown(output: Output, remaining: Remaining) -> Generator[None]:
    """Show it below the lines that are printed, while the block runs; nothing where the output is no terminal."""
    if output.as_json or not sys.stdout.isatty():
        yield
        return
    from rich.progress import Progress, SpinnerColumn, Task, TextColumn

    from flor_dagster.cli.output import styled

    class Left(TextColumn):
        """Asks for the time that is left whenever it is drawn."""

        def render(self, task: Task) -> Text:
            del task
            return styled((remaining.sentence, "dim"))

    with Progress(SpinnerColumn(), Left(""), console=output.console, transient=True) as progress:
        progress.add_task("", total=None)
        yield
