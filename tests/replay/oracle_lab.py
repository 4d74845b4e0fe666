"""Ask a script with some of its `flor.log`s taken out, and compare with the script that had them from the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flor_dagster.replay.model import CellAnswer, Question
from flor_dagster.replay.workspace import Workspace
from tests.replay.conftest import Lab, bits

ASKED = "#? "
"""Before a `flor.log` that the recorded run did not have; its line is empty there."""


@dataclass(frozen=True)
class Asked:
    """What came of one asked name.

    Args:
        answer: the cell's answer.
        values: by loop context, bit for bit, what the view shows.
        wanted: the same of the run that logged it itself.
        steps: how often each recorded name was executed again.
    """

    answer: CellAnswer
    values: list[tuple[object, ...]]
    wanted: list[tuple[object, ...]]
    steps: dict[str, int]

    @property
    def fidelity(self) -> str | None:
        return self.answer.cell.fidelity

    @property
    def sentence(self) -> str:
        return self.answer.cell.sentence

    @property
    def right(self) -> bool:
        """Whether every value is there, at its place, with its bits."""
        return self.values == self.wanted


def without_asked(text: str) -> str:
    """The recorded version of a script."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith(ASKED))


def with_asked(text: str) -> str:
    """The newest version of a script."""
    return text.replace(ASKED, "")


def ask_each(
    lab: Lab,
    files: Mapping[str, str],
    *names: str,
    together: bool = False,
    fails: bool = False,
    **args: object,
) -> dict[str, Asked]:
    """Train the script without the asked statements, ask them one by one (or in one question), train one with them.

    Args:
        lab: an empty project.
        files: sources; the entry point is `train.py`, asked statements stand behind `#? `.
        names: what is asked.
        together: whether it is one question.
        fails: whether the training ends badly.
        args: the training's.
    """
    lab.commit({name: without_asked(text) for name, text in files.items()})
    lab.train(fails=fails, **args)
    newest = {name: with_asked(text) for name, text in files.items()}
    lab.write(newest)
    oracle = Lab(lab.root.parent / "oracle")
    oracle.commit(newest)
    oracle.train(fails=fails, **args)
    found: dict[str, Asked] = {}
    with lab.open() as workspace, oracle.open() as truth:
        truth.sync()
        for some in [names] if together else [(name,) for name in names]:
            report = workspace.answer(Question(tuple(some)))
            for answer in report.cells:
                name = answer.statement.name
                steps = {
                    recorded: sum(lab.emitted(replay.id, recorded) for replay in report.replays)
                    for recorded in workspace.store.names()
                    if recorded not in names
                }
                found[name] = Asked(answer, _rows(workspace, name), _rows(truth, name), steps)
    return found


def _rows(workspace: Workspace, name: str) -> list[tuple[object, ...]]:
    if name not in workspace.store.names():
        return []
    frame = workspace.store.dataframe(name).drop(columns="run")
    frame = frame[frame[name].notna()]
    return [tuple(bits(v) for v in row) for row in frame.itertuples(index=False)]
