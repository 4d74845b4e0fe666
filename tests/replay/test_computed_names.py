"""A statement that computes its names is asked like any other, and each name has its own values."""

from __future__ import annotations

import pytest

from flor_dagster.errors import UnknownNameError
from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab, bits

pytestmark = pytest.mark.ci

OLD = """\
import random
import flor_dagster as flor

random.seed(0)
w = {"a": 1.0, "b": 2.0}
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        for k in w:
            w[k] += random.random()
    flor.log("loss", sum(w.values()))
"""
FORMS = {
    "text": 'flor.log(f"norm/{k}", w[k])',
    "sum": 'flor.log("norm/" + k, w[k])',
    "percent": 'flor.log("norm/%s" % k, w[k])',
    "format": 'flor.log("norm/{}".format(k), w[k])',
    "whole": "flor.log(names[k], w[k])",
}


def with_line(line: str) -> str:
    head, tail = OLD.split("    flor.log(", 1)
    return f"{head}    for k in w:\n        {line}\n    flor.log({tail}"


def frames(lab: Lab, *names: str) -> dict[str, list[tuple[object, ...]]]:
    """Run → its rows of the columns, and of the loop's."""
    found: dict[str, list[tuple[object, ...]]] = {}
    with lab.open() as workspace:
        workspace.sync()
        for row in workspace.store.dataframe(*names).itertuples(index=False):
            found.setdefault(row.run, []).append(tuple(bits(v) for v in row[1:]))
    return found


@pytest.mark.parametrize("recorded_too", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_name_has_its_own_values(lab: Lab, form: str, recorded_too: bool) -> None:
    mapping = ("random.seed(0)\n", 'random.seed(0)\nnames = {"a": "norm/a", "b": "norm/b"}\n')
    lab.commit({"train.py": OLD.replace(*mapping)})
    lab.train()
    lab.write({"train.py": with_line(FORMS[form]).replace(*mapping)})
    if recorded_too:
        lab.train()
    with lab.open() as workspace:
        report = workspace.answer(Question(("norm/a",)))
        cells = [c.cell for c in report.cells if c.cell.status == "replayed"]
        assert len(cells) == 1
        assert cells[0].fidelity == "exact"
        assert "6 values of 2 names (norm/a, norm/b)" in cells[0].sentence
        # The other name has its values by the same replay.
        assert workspace.answer(Question(("norm/b",))).children == 0
        assert workspace.answer(Question(("norm/*",))).children == 0
    oracle = Lab(lab.root.parent / "oracle")
    oracle.commit({"train.py": (lab.root / "train.py").read_text()})
    oracle.train()
    (wanted,) = frames(oracle, "norm/a", "norm/b").values()
    asked = [rows for rows in frames(lab, "norm/a", "norm/b").values() if rows[0][-1] != bits(None)]
    assert len(wanted) == 3
    assert len(asked) == 1 + recorded_too
    assert all(rows == wanted for rows in asked)


def test_two_patterns_are_two_statements_though_they_log_the_same(lab: Lab) -> None:
    lab.commit({"train.py": with_line('flor.log(f"size/{k}", w[k])')})
    lab.train()
    lab.write({"train.py": with_line('flor.log(f"norm/{k}", w[k])')})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("norm/a",))).cells
        assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact")
        assert {s.name for s in workspace.store.statements()} == {"loss", "size/{}", "norm/{}"}
    ((*_, first),) = (rows[0] for rows in frames(lab, "norm/a").values())
    ((*_, same),) = (rows[0] for rows in frames(lab, "size/a").values())
    assert first == same


def test_a_name_that_the_statement_never_gave_is_said_to_be_none_of_its_names(lab: Lab) -> None:
    lab.commit({"train.py": with_line('flor.log(f"norm/{k}", w[k])')})
    lab.train()
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("norm/c",))).cells
        assert "6 values of 2 names (norm/a, norm/b)" in answer.cell.sentence
        frame = workspace.store.dataframe("norm/c")
        assert frame.empty
        ((_, told),) = frame.attrs["empty"][answer.run.key].items()
        assert "'norm/c' was none of them" in told
        with pytest.raises(UnknownNameError, match="no statement logs `gnorm/a`"):
            workspace.resolve("gnorm/a")


def test_a_function_that_logs_for_others_says_which_names_it_logged(lab: Lab) -> None:
    """Many projects have one: a new call of it is no new statement of ours."""
    wrapper = "def note(name, value):\n    flor.log(name, value)\n\nrandom.seed"
    old = OLD.replace("random.seed", wrapper).replace('flor.log("loss"', 'note("loss"')
    lab.commit({"train.py": old})
    lab.train()
    lab.write({"train.py": old + '    note("size", len(w))\n'})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("size",))).cells
        assert answer.cell.status == "recorded"
        assert "3 values of 1 name (loss)" in answer.cell.sentence
        assert workspace.answer(Question(("loss",))).cells[0].cell.rows == 3


def test_a_run_of_many_names_of_one_call_has_one_statement(lab: Lab) -> None:
    lab.commit({"train.py": "import flor_dagster as flor\nfor i in range(300): flor.log(f'norm/{i}', i)\n"})
    lab.train()
    with lab.open() as workspace:
        workspace.sync()
        (statement,) = workspace.store.statements()
        (run,) = workspace.runs()
        assert statement.name == "norm/{}"
        assert {linked for *_, linked in workspace.store.call_sites(run.id)} == {statement.id}
        frame = workspace.store.dataframe("norm/7", "norm/299")
        assert frame[["norm/7", "norm/299"]].to_numpy().tolist() == [[7, 299]]
        assert "norm/{}" not in workspace.store.names()
        assert len(workspace.store.names()) == 300
