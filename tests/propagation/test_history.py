"""Direct first, through the versions between where the direct way refuses; a refusal names the version that is to blame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from flor_dagster.propagation import Chain, HistoryOfTrees, PropagatedTree, propagate_tree
from flor_dagster.propagation.history import has_thing
from tests.propagation.project_lab import with_lines

SCRIPT = """\
import flor_dagster as flor


def main():
    weights = start()
    for epoch in flor.loop("epoch", range(3)):
        total = 0.0
        for batch in flor.loop("step", batches()):
            gradient = slope(weights, batch)
            weights = weights - 0.1 * gradient
            total = total + error(weights, batch)
        print(total)


main()
"""

# One commit renames everything that a statement could be known by, another one rewrites its neighbours.
RENAMED = (
    SCRIPT.replace("gradient", "g").replace("weights", "w").replace("total", "acc").replace("batch", "item")
)
REWRITTEN = RENAMED.replace("slope(w, item)", "pull(item, w, mode=1)").replace(
    "error(w, item)", "miss(item, w, 'l2')"
)


def history(*texts: str) -> HistoryOfTrees:
    return HistoryOfTrees([(f"version {n}", {"train.py": text}) for n, text in enumerate(texts)])


def ask(texts: list[str], after: str, statement: str, index: int | None = None) -> PropagatedTree:
    new, line = with_lines(texts[0], after, statement)
    versions = history(new, *texts[1:])
    return Chain(versions).propagate({"train.py": [line]}, len(texts) - 1 if index is None else index)


def test_what_the_direct_way_places_is_left_as_it_is() -> None:
    new, line = with_lines(SCRIPT, "gradient = slope", 'flor.log("g", gradient)')
    direct = propagate_tree({"train.py": new}, {"train.py": RENAMED}, {"train.py": [line]})
    chained = Chain(history(new, RENAMED)).propagate({"train.py": [line]}, 1)
    assert chained == direct


def test_a_statement_goes_through_the_versions_between() -> None:
    far = REWRITTEN.replace("def main():", "def run(options):").replace("main()", "run(read())")
    texts = [SCRIPT, RENAMED, REWRITTEN, far]
    new, line = with_lines(SCRIPT, "gradient = slope", 'flor.log("g", gradient)')
    direct = propagate_tree({"train.py": new}, {"train.py": far}, {"train.py": [line]})
    assert direct.refusals
    chained = ask(texts, "gradient = slope", 'flor.log("g", gradient)')
    (placed,) = chained.placements
    assert ("gradient", "g") in placed.placement.renamed
    assert placed.placement.statement.lines == (line, line)
    assert 'g = pull(item, w, mode=1)\n            flor.log("g", g)\n' in chained.files["train.py"].source
    kept = [
        text
        for n, text in enumerate(chained.files["train.py"].source.split("\n"), 1)
        if n not in chained.files["train.py"].added
    ]
    assert "\n".join(kept) == far


def test_a_refusal_names_the_version_that_the_missing_name_came_with() -> None:
    momentum = SCRIPT.replace(
        "            weights = weights - 0.1 * gradient\n",
        "            velocity = 0.9 * velocity + gradient\n            weights = weights - 0.1 * velocity\n",
    ).replace("    weights = start()\n", "    weights = start()\n    velocity = 0.0\n")
    later = momentum.replace("range(3)", "range(30)")
    result = ask([later, momentum, SCRIPT, RENAMED], "velocity = 0.9", 'flor.log("v", velocity)')
    (refused,) = result.refusals
    assert refused.refusal.missing == "velocity"
    assert refused.refusal.sentence.endswith("; `velocity` came with version 1.")
    assert refused.came_with == 1


def test_a_refusal_names_the_version_that_the_loop_came_with() -> None:
    flat = SCRIPT.replace(
        '        for batch in flor.loop("step", batches()):\n',
        "        if True:\n            batch = all_of_it()\n",
    )
    result = ask(
        [SCRIPT, SCRIPT.replace("range(3)", "range(4)"), flat], "gradient = slope", 'flor.log("g", gradient)'
    )
    (refused,) = result.refusals
    assert "came with version 1" in refused.refusal.sentence or "has a place" in refused.refusal.sentence


def test_a_version_that_is_no_python_is_passed_over() -> None:
    far = REWRITTEN.replace("def main():", "def run(options):").replace("main()", "run(read())")
    broken = "<<<<<<< HEAD\n" + RENAMED
    result = ask([SCRIPT, broken, RENAMED, REWRITTEN, far], "gradient = slope", 'flor.log("g", gradient)')
    assert not result.refusals


def test_a_renamed_file_is_followed() -> None:
    new, line = with_lines(SCRIPT, "gradient = slope", 'flor.log("g", gradient)')
    versions = HistoryOfTrees(
        [
            ("version 0", {"main.py": new}),
            ("version 1", {"scripts/fit.py": RENAMED}),
            ("version 2", {"train.py": REWRITTEN}),
        ],
        [{"main.py": "scripts/fit.py"}, {"scripts/fit.py": "train.py"}],
    )
    result = Chain(versions).propagate({"main.py": [line]}, 2)
    assert [(p.path, p.old_path) for p in result.placements] == [("main.py", "train.py")]


def test_what_was_placed_in_one_version_is_where_the_next_question_starts(hops: list[int]) -> None:
    far = REWRITTEN.replace("def main():", "def run(options):").replace("main()", "run(read())")
    further = far.replace("range(3)", "range(9)")
    new, line = with_lines(SCRIPT, "gradient = slope", 'flor.log("g", gradient)')
    versions = history(new, RENAMED, REWRITTEN, far, further)
    chain = Chain(versions)
    assert not chain.propagate({"train.py": [line]}, 3).refusals
    before = len(hops)
    assert not chain.propagate({"train.py": [line]}, 4).refusals
    assert len(hops) - before == 2  # the direct way, and from the version before


def test_a_long_history_needs_few_hops(hops: list[int]) -> None:
    texts = [SCRIPT.replace("range(3)", f"range({n})") for n in range(60)]
    texts += [REWRITTEN.replace("range(3)", f"range({n})") for n in range(60)]
    new, line = with_lines(texts[0], "gradient = slope", 'flor.log("g", gradient)')
    Chain(history(new, *texts[1:])).propagate({"train.py": [line]}, len(texts) - 1)
    assert len(hops) < 30


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every propagation of a statement from one version into another."""
    made: list[int] = []

    def counted(*arguments: Any, **options: Any) -> PropagatedTree:
        made.append(1)
        return propagate_tree(*arguments, **options)

    monkeypatch.setattr("flor_dagster.propagation.history.propagate_tree", counted)
    return made


def test_versions_that_name_no_loops_lead_into_no_other_loop() -> None:
    plain = SCRIPT.replace('flor.loop("epoch", range(3))', "range(3)").replace(
        'flor.loop("step", batches())', "batches()"
    )
    moved = SCRIPT.replace(
        '        for batch in flor.loop("step", batches()):\n',
        "        if ready():\n            batch = fetch()\n",
    )
    swapped = SCRIPT.replace('"epoch"', '"?"').replace('"step"', '"epoch"').replace('"?"', '"step"')
    for old in (moved, swapped):
        direct = ask([SCRIPT, old], "gradient = slope", 'flor.log("g", gradient)')
        chained = ask([SCRIPT, plain, old], "gradient = slope", 'flor.log("g", gradient)')
        assert direct.refusals
        assert chained.refusals


def test_the_same_question_has_the_same_answer() -> None:
    far = REWRITTEN.replace("def main():", "def run(options):").replace("main()", "run(read())")
    texts = [SCRIPT, RENAMED, REWRITTEN, far]
    asked = ("gradient = slope", 'flor.log("g", gradient)')
    assert ask(texts, *asked) == ask(texts, *asked)


THINGS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("no-variable", "velocity"): ("velocity = 1\n", "speed = 1\n"),
    ("not-definite", "velocity"): ("def f(velocity):\n    pass\n", "print(velocity)\n"),
    ("no-function", "Net.forward"): ("class Net:\n    def forward(self):\n        pass\n", "forward(1)\n"),
    ("no-loop", "for a in b"): ("for a in b:\n    pass\n", "for a in c:\n    pass\n"),
    ("no-branch", "if verbose"): ("if verbose:\n    pass\n", "verbose = 1\n"),
    ("no-attribute", "args.lr"): ("print(args.lr)\n", "print(args.rate)\n"),
    ("no-attribute", "['loss']"): ("x['loss'] = 1\n", "x['cost'] = 1\n"),
}


@pytest.mark.parametrize(("what", "texts"), THINGS.items())
def test_a_version_is_known_to_have_a_thing_or_not(what: tuple[str, str], texts: tuple[str, str]) -> None:
    kind, missing = what
    assert has_thing(texts[0], kind, missing)  # type: ignore[arg-type]
    assert not has_thing(texts[1], kind, missing)  # type: ignore[arg-type]
    assert not has_thing("def (", kind, missing)  # type: ignore[arg-type]
