"""A small training project in the shapes that projects take: one script, split files, packages."""

from __future__ import annotations

from flor_dagster.propagation import PropagatedTree, propagate_tree

ONE_FILE = """\
import flor_dagster as flor
import torch

LIMIT = 5.0


def accuracy(model, data):
    right = 0
    for batch in data:
        right += (model(batch.x).argmax(1) == batch.y).sum()
    return right / len(data)


def main():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in flor.loop("epoch", range(3)):
        for batch in flor.loop("step", batches()):
            optimizer.zero_grad()
            output = model(batch.x)
            loss = criterion(output, batch.y)
            loss.backward()
            optimizer.step()
            flor.log("loss", loss.item())
        score = accuracy(model, held_out())
        flor.log("score", score)


main()
"""

STEPS = """\
import torch


def train_step(model, optimizer, batch):
    optimizer.zero_grad()
    output = model(batch.x)
    loss = criterion(output, batch.y)
    loss.backward()
    optimizer.step()
    return loss


def accuracy(model, data):
    right = 0
    for batch in data:
        right += (model(batch.x).argmax(1) == batch.y).sum()
    return right / len(data)
"""

SPLIT = """\
import flor_dagster as flor
import torch
from steps import accuracy, train_step

LIMIT = 5.0


def main():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in flor.loop("epoch", range(3)):
        for batch in flor.loop("step", batches()):
            loss = train_step(model, optimizer, batch)
            flor.log("loss", loss.item())
        score = accuracy(model, held_out())
        flor.log("score", score)


main()
"""


def with_lines(text: str, after: str, *lines: str) -> tuple[str, int]:
    """A text with lines put behind the only line that holds `after`, at its indentation; the first one's number."""
    rows = text.split("\n")
    found = [n for n, row in enumerate(rows) if after in row]
    assert len(found) == 1, (after, found)
    indent = rows[found[0]][: len(rows[found[0]]) - len(rows[found[0]].lstrip())]
    rows[found[0] + 1 : found[0] + 1] = [indent + line for line in lines]
    return "\n".join(rows), found[0] + 2


def place(
    new: dict[str, str], old: dict[str, str], file: str, after: str, statement: str, **options: object
) -> PropagatedTree:
    """Ask for one statement behind a line of a file."""
    text, line = with_lines(new[file], after, statement)
    return propagate_tree({**new, file: text}, old, {file: [line]}, **options)  # type: ignore[arg-type]


def line_after(result: PropagatedTree, path: str, statement: str) -> str:
    """The line of the old version behind which a statement was put."""
    rows = result.files[path].source.split("\n")
    at = next(n for n, row in enumerate(rows) if row.strip() == statement)
    return next(
        row.strip() for row in reversed(rows[:at]) if not row.strip().startswith(("import ", "from "))
    )
