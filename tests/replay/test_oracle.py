"""Hindsight gives the values that the old version would have logged, had the statement stood there from the start."""

from __future__ import annotations

import random
import textwrap
from pathlib import Path

import pytest

from example_pipelines.digits.history import load_history
from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab, bits

pytestmark = pytest.mark.ci

HISTORY = load_history()
SMALL = {"epochs": 3, "batch_size": 512, "hidden": 32}


def tree(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir() if p.suffix == ".py"}


def insert(text: str, anchor: str, statement: str, *, before: bool = False) -> str:
    """Put a statement beside the one line that is `anchor`, at its indentation."""
    lines = text.splitlines()
    (index,) = (i for i, line in enumerate(lines) if line.strip() == anchor)
    indent = lines[index][: len(lines[index]) - len(lines[index].lstrip())]
    lines.insert(index if before else index + 1, indent + statement)
    return "\n".join(lines) + "\n"


def by_hand(folder: Path) -> dict[str, str]:
    """A version of the example with the statements written in by hand, where a person would write them."""
    files = tree(folder)
    early = folder.name in ("v1", "v2")
    params = "w" if early else "params"
    text = insert(
        files["train.py"], "for k in w:" if early else "for name in params:",
        'flor.log("grad_norm", np.sqrt(sum((grad**2).sum() for grad in grads.values())))', before=True,
    )  # fmt: skip
    text = insert(
        text, 'flor.log("train_loss", train_loss)',
        f'flor.log("weight_norm", np.sqrt(({params}["w1"] ** 2).sum() + ({params}["w2"] ** 2).sum()))',
    )  # fmt: skip
    if folder.name != "v1":
        ratio = f'flor.log("update_ratio", np.abs(velocity["w1"]).mean() / np.abs({params}["w1"]).mean())'
        text = insert(text, 'flor.log("train_loss", train_loss)', ratio)
    return files | {"train.py": text}


def table(lab: Lab, *names: str) -> dict[str, list[tuple[object, ...]]]:
    """Per training run in the order of their start: rows of (epoch, step, bits of each value)."""
    with lab.open() as workspace:
        workspace.sync()
        frame = workspace.store.dataframe(*names)
        loops = [c for c in frame.columns if c not in ("run", *names) and not c.endswith("_value")]
        return {
            run.key: [
                tuple(bits(v) for v in row)
                for row in frame[frame["run"] == run.key][[*loops, *names]].itertuples(index=False)
            ]
            for run in workspace.runs()
        }


@pytest.fixture
def digits(lab: Lab) -> Lab:
    """Every version of the example, trained once; then the newest source with the new statements."""
    for version in HISTORY.versions:
        for stale in lab.root.glob("*.py"):
            stale.unlink()
        lab.commit(tree(version.folder), version.subject)
        lab.train(**SMALL)
    lab.commit(tree(HISTORY.newest.folder), HISTORY.newest.subject)
    return lab


@pytest.mark.slow
def test_every_old_version_of_the_example_gets_the_values_it_would_have_logged(
    digits: Lab, tmp_path: Path
) -> None:
    with digits.open() as workspace:
        epoch_level = workspace.answer(Question(("weight_norm", "update_ratio")))
        step_level = workspace.answer(Question(("grad_norm",)))
        refused = [(a.statement.key, a.run) for a in epoch_level.cells if a.cell.status == "refused"]
        assert [key for key, _ in refused] == ["update_ratio"]
        assert refused[0][1].key == workspace.runs()[0].key, "the oldest version has no velocity"
        assert "velocity" in next(a.cell.sentence for a in epoch_level.cells if a.cell.status == "refused")
        for answer in (*epoch_level.cells, *step_level.cells):
            if answer.cell.status != "refused":
                assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), (
                    answer.cell.sentence
                )
        for replay in epoch_level.replays:
            assert digits.emitted(replay.id, "loss") == 0, "an epoch-level statement executed a step"
            assert digits.emitted(replay.id, "train_loss") == SMALL["epochs"]
        steps = {run.id: sum(loop.count for loop in workspace.store.loops(run.id) if loop.name == "step")
                 for run in workspace.runs()}  # fmt: skip
        for answer in step_level.cells:
            assert answer.cell.rows == steps[answer.run.id]
        for answer in epoch_level.cells:
            if answer.cell.status == "replayed":
                assert answer.cell.rows == SMALL["epochs"]

    oracle = Lab(tmp_path / "oracle")
    for version in HISTORY.versions:
        for stale in oracle.root.glob("*.py"):
            stale.unlink()
        oracle.commit(by_hand(version.folder))
        oracle.train(**SMALL)
    for names in (("weight_norm",), ("update_ratio",), ("grad_norm",), ("loss", "grad_norm")):
        assert list(table(digits, *names).values()) == list(table(oracle, *names).values()), names


@pytest.mark.slow
def test_a_step_level_statement_of_one_epoch_executes_that_epoch_alone(digits: Lab) -> None:
    with digits.open() as workspace:
        workspace.sync()
        full = workspace.answer(Question(("grad_norm",), runs=(workspace.runs()[3].key,)))
        asked = Question(("grad_norm",), runs=(workspace.runs()[4].key,), iterations={"epoch": (1,)})
        part = workspace.answer(asked)
        (answer,) = part.cells
        steps = next(loop.count for loop in workspace.store.loops(answer.run.id) if loop.name == "step")
        assert full.complete
        assert answer.cell.status == "open", "a question for some iterations leaves its cell open"
        assert answer.cell.fidelity == "exact"
        assert answer.cell.rows == steps
        (replay,) = part.replays
        assert digits.emitted(replay.id, "loss") == steps, "only the wanted epoch's steps"
        assert digits.emitted(replay.id, "train_loss") == 1, "nothing of the epoch before is executed"
        frame = workspace.store.dataframe("grad_norm", runs=[answer.run.key]).dropna(subset=["grad_norm"])
        assert set(frame["epoch"]) == {1}
        whole = workspace.answer(Question(("grad_norm",), runs=(answer.run.key,)))
        assert whole.cells[0].cell.status == "replayed"
        again = workspace.store.dataframe("grad_norm", runs=[answer.run.key])
        one = again[again["epoch"] == 1]["grad_norm"]
        assert [bits(v) for v in one] == [bits(v) for v in frame["grad_norm"]]


# --------------------------------------------------------------------------------------------------------------------
# A second history, of other names, loops and layout, generated here
# --------------------------------------------------------------------------------------------------------------------

WORDS = [
    "alpha",
    "beacon",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "harbor",
    "islet",
    "jasper",
    "kelp",
    "lumen",
]


class Generated:
    """A random-walk estimator in versions whose names are drawn; each knows where the statements belong."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.words = draw.sample(WORDS, len(WORDS))
        self.outer, self.inner, self.outer_log, self.inner_log = self.words[:4]

    def version(
        self, number: int, *, outer_statement: bool = False, inner_statement: bool = False
    ) -> dict[str, str]:
        state, item, draws, best, fit, tally = self.words[4:10]
        if number >= 1:
            state, item = item, state  # renamed
        inner_line = f'flor.log("hind_inner", {draws}.mean() * {tally}["n"])' if inner_statement else ""
        outer_line = (
            f'flor.log("hind_outer", float(np.abs({state}.values).sum() + {best}))' if outer_statement else ""
        )
        step = f"""\
{draws} = np.random.normal(size=5)
{state}.values += 0.01 * {draws} * random.random()
{tally}["n"] += 1
{inner_line}
flor.log("{self.inner_log}", float({draws}[0]))
"""
        loop_body = step
        helper = ""
        if number >= 2:  # the inner loop lives in a function
            helper = f"""
def {fit}({state}, {tally}):
    for {item} in flor.loop("{self.inner}", range(4)):
{textwrap.indent(step, "        ")}
    return {item}
"""
            inner_part = f"{item} = {fit}({state}, {tally})\n"
        else:
            inner_part = (
                f'for {item} in flor.loop("{self.inner}", range(4)):\n{textwrap.indent(loop_body, "    ")}'
            )
        body = f"""\
{inner_part}
{best} = max({best}, float({state}.values.max()))
{state}.history.append({best})
{outer_line}
flor.log("{self.outer_log}", {best})
"""
        wrap = f'    for turn in flor.loop("{self.outer}", range(flor.arg("turns", 5))):\n{textwrap.indent(body, "        ")}'
        setup = f"""\
random.seed(flor.arg("seed", 3))
np.random.seed(4)
{state} = store.Walk(5)
{tally} = {{"n": 0}}
{best} = 0.0
with flor.checkpointing(walk={state}):
{wrap}
flor.log("length", len({state}.history))
"""
        if number >= 3:
            setup = f"def run():\n{textwrap.indent(setup, '    ')}\n\nrun()\n"
        script = f"import random\nimport numpy as np\nimport flor_dagster as flor\nfrom parts import store\n{helper}\n{setup}"
        return {
            "jobs/estimate.py": script,
            "jobs/parts/__init__.py": "",
            "jobs/parts/store.py": "import numpy as np\n\n\nclass Walk:\n    def __init__(self, n):\n"
            "        self.values = np.zeros(n)\n        self.history = []\n",
        }


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_generated_history_gets_the_values_it_would_have_logged(
    lab: Lab, tmp_path: Path, seed: int
) -> None:
    made = Generated(seed)
    oracle = Lab(tmp_path / "oracle")
    for number in range(4):
        lab.commit(made.version(number))
        lab.train("jobs/estimate.py")
        oracle.commit(made.version(number, outer_statement=True, inner_statement=True))
        oracle.train("jobs/estimate.py")
    lab.commit(made.version(3, outer_statement=True, inner_statement=True))
    with lab.open() as workspace:
        outer = workspace.answer(Question(("hind_outer",)))
        inner = workspace.answer(Question(("hind_inner",)))
        for answer in (*outer.cells, *inner.cells):
            assert (answer.cell.status, answer.cell.fidelity) == ("replayed", "exact"), answer.cell.sentence
        for replay in outer.replays:
            assert lab.emitted(replay.id, made.inner_log) == 0
    for names in (("hind_outer",), ("hind_inner",)):
        assert list(table(lab, *names).values()) == list(table(oracle, *names).values()), names


def test_no_name_of_the_example_is_known_to_the_package() -> None:
    package = Path(__file__).parents[2] / "flor_dagster"
    text = "\n".join(p.read_text() for p in package.rglob("*.py"))
    for name in (
        'grad_norm"',
        "weight_norm",
        "update_ratio",
        "train_loss",
        "val_acc",
        "train_step",
        "load_split",
    ):
        assert f'"{name}' not in text.replace(f"`{name}", ""), name
