"""What has no place is refused, with what is missing."""

from __future__ import annotations

import textwrap

import pytest

from flor_dagster.errors import PropagationError, SourceSyntaxError
from flor_dagster.propagation import Propagated, find_statements, propagate


def ask(new: str, old: str, **keywords: bool) -> Propagated:
    new, old = textwrap.dedent(new).lstrip("\n"), textwrap.dedent(old).lstrip("\n")
    lines = [s.lines[0] for s in find_statements(new) if s.name == "Q"]
    return propagate(new, old, lines, **keywords)


REFUSED = [
    (
        "no-variable",
        "grads",
        """
        for step in range(3):
            loss = f(step)
            grads = g(step)
            flor.log("Q", max(grads))
            update(loss)
        """,
        """
        for step in range(3):
            loss = f(step)
            update(loss)
        """,
    ),
    (
        "not-definite",
        "best",
        """
        best = start()
        for step in range(3):
            loss = f(step)
            best = min(best, loss)
            flor.log("Q", best)
            update(loss)
        """,
        """
        for step in range(3):
            loss = f(step)
            for k in rounds():
                best = better(k)
            update(loss)
        """,
    ),
    (
        "no-loop",
        "for layer in model.layers",
        """
        for step in range(3):
            loss = f(step)
            for layer in model.layers:
                size = measure(layer)
                flor.log("Q", size)
            update(loss)
        """,
        """
        for step in range(3):
            loss = f(step)
            update(loss)
        """,
    ),
    (
        "no-branch",
        "if verbose",
        """
        for step in range(3):
            loss = f(step)
            if verbose:
                text = render(loss)
                flor.log("Q", loss)
                show(text)
            update(loss)
        """,
        """
        for step in range(3):
            loss = f(step)
            update(loss)
        """,
    ),
    (
        "no-attribute",
        "self.momentum",
        """
        class T:
            def __init__(self):
                self.rate = 1
                self.momentum = 2
            def run(self):
                go(self.rate)
                flor.log("Q", self.momentum)
                stop(self.rate)
        """,
        """
        class T:
            def __init__(self):
                self.rate = 1
            def run(self):
                go(self.rate)
                stop(self.rate)
        """,
    ),
    (
        "changes-training",
        "",
        """
        data = load()
        flor.log("Q", next(data))
        fit(data)
        """,
        """
        data = load()
        fit(data)
        """,
    ),
    (
        "unsupported-syntax",
        "",
        """
        data = load()
        flor.log("Q", data)
        """,
        """
        data = load()
        print data
        """,
    ),
]


@pytest.mark.parametrize(("kind", "missing", "new", "old"), REFUSED, ids=[r[0] for r in REFUSED])
def test_a_statement_without_a_place_is_refused_and_the_file_left_alone(
    kind: str, missing: str, new: str, old: str
) -> None:
    result = ask(new, old)
    (refusal,) = result.refusals
    assert refusal.kind == kind
    assert refusal.missing == missing
    assert missing in refusal.sentence
    assert refusal.sentence.startswith("`Q`")
    assert result.source == textwrap.dedent(old).lstrip("\n")
    assert result.added == ()


def test_a_function_that_the_old_version_lacks_is_named() -> None:
    new = """
    def audit(rows):
        widths = [len(row) for row in rows]
        deepest = max(widths)
        flor.log("Q", deepest)
        return deepest
    def fit(data):
        return improve(data)
    """
    old = """
    def fit(data):
        return improve(data)
    """
    (refusal,) = ask(new, old).refusals
    assert refusal.kind in ("no-function", "no-variable")
    assert refusal.missing in ("audit", "deepest")


def test_effects_can_be_allowed() -> None:
    result = ask(*REFUSED[5][2:], allow_effects=True)
    assert len(result.placements) == 1


def test_taking_away_the_definition_turns_a_placement_into_a_refusal() -> None:
    new = "def go(a):\n    b = a + 1\n    c = use(b)\n    flor.log('Q', c)\n    return b\n"
    old = "def go(a):\n    b = a + 1\n    c = use(b)\n    return b\n"
    assert ask(new, old).placements
    assert ask(new, old.replace("    c = use(b)\n", "")).refusals


def test_a_constant_that_steers_the_training_does_not_travel() -> None:
    new = "RATE = 0.1\nmodel = build()\nfit(model, RATE)\nflor.log('Q', RATE)\n"
    old = "model = build()\nfit(model, 0.3)\n"
    assert ask(new, old).refusals[0].kind == "no-variable"


def test_a_line_without_a_statement_is_a_mistake() -> None:
    with pytest.raises(PropagationError, match="line 2"):
        propagate("x = 1\n\ny = 2\n", "x = 1\n", [2])


def test_a_new_version_that_is_no_python_is_an_error() -> None:
    with pytest.raises(SourceSyntaxError, match="line 1"):
        propagate("x = = 1\n", "x = 1\n", [1])


def test_the_name_is_not_confused_with_what_a_star_import_may_bring() -> None:
    new = "from tools import *\nx = a()\ny = b(x)\nflor.log('Q', y)\nuse(x)\n"
    old = "from tools import *\nx = a()\nuse(x)\n"
    assert ask(new, old).refusals[0].missing == "y"
