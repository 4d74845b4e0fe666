"""A statement of the newest version lands where it belongs in an older one."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import pytest

from flor_dagster.propagation import Propagated, find_statements, propagate

NEW = """
import flor_dagster as flor

def train(model, loader, epochs):
    opt = make_optimizer(model)
    for epoch in flor.loop("epoch", range(epochs)):
        total = 0.0
        for x, y in flor.loop("step", loader):
            out = model(x)
            loss = criterion(out, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            total += loss.item()
            flor.log("Q", loss.item())
        acc = evaluate(model)
        print(acc)
    return model
"""


def lines_of(source: str, *names: str) -> list[int]:
    return [s.lines[0] for s in find_statements(source) if s.name in names]


def ask(new: str, old: str, *names: str) -> Propagated:
    new, old = textwrap.dedent(new).lstrip("\n"), textwrap.dedent(old).lstrip("\n")
    return propagate(new, old, lines_of(new, *(names or ("Q",))))


def without_added(result: Propagated) -> str:
    lines = result.source.splitlines(keepends=True)
    return "".join(line for n, line in enumerate(lines, 1) if n not in result.added)


@dataclass(frozen=True)
class Case:
    promise: str
    new: str
    old: str
    expected: str


CASES = [
    Case(
        "same surroundings",
        NEW,
        """
        import flor_dagster as flor

        def train(model, loader, epochs):
            opt = make_optimizer(model)
            for epoch in flor.loop("epoch", range(epochs)):
                for x, y in flor.loop("step", loader):
                    loss = criterion(model(x), y)
                    opt.zero_grad()
                    loss.backward()
                    opt.step()  # the optimizer
                    # evaluation follows
                acc = evaluate(model)
        """,
        """
        import flor_dagster as flor

        def train(model, loader, epochs):
            opt = make_optimizer(model)
            for epoch in flor.loop("epoch", range(epochs)):
                for x, y in flor.loop("step", loader):
                    loss = criterion(model(x), y)
                    opt.zero_grad()
                    loss.backward()
                    opt.step()  # the optimizer
                    flor.log("Q", loss.item())
                    # evaluation follows
                acc = evaluate(model)
        """,
    ),
    Case(
        "renamed variables and loop variables",
        NEW,
        """
        import flor_dagster as flor

        def train(model, loader, epochs):
            optimizer = make_optimizer(model)
            for ep in flor.loop("epoch", range(epochs)):
                total = 0.0
                for a, b in flor.loop("step", loader):
                    out = model(a)
                    err = criterion(out, b)
                    optimizer.zero_grad()
                    err.backward()
                    optimizer.step()
                    total += err.item()
                acc = evaluate(model)
        """,
        """
        import flor_dagster as flor

        def train(model, loader, epochs):
            optimizer = make_optimizer(model)
            for ep in flor.loop("epoch", range(epochs)):
                total = 0.0
                for a, b in flor.loop("step", loader):
                    out = model(a)
                    err = criterion(out, b)
                    optimizer.zero_grad()
                    err.backward()
                    optimizer.step()
                    total += err.item()
                    flor.log("Q", err.item())
                acc = evaluate(model)
        """,
    ),
    Case(
        "a script that was wrapped into a function later",
        NEW,
        """
        import flor_dagster as flor

        opt = make_optimizer(model)
        for epoch in flor.loop("epoch", range(epochs)):
            total = 0.0
            for x, y in flor.loop("step", loader):
                out = model(x)
                loss = criterion(out, y)
                opt.zero_grad()
                loss.backward()
                opt.step()
                total += loss.item()
            acc = evaluate(model)
        """.replace("opt = make", "model, loader, epochs = setup()\n        opt = make"),
        """
        import flor_dagster as flor

        model, loader, epochs = setup()
        opt = make_optimizer(model)
        for epoch in flor.loop("epoch", range(epochs)):
            total = 0.0
            for x, y in flor.loop("step", loader):
                out = model(x)
                loss = criterion(out, y)
                opt.zero_grad()
                loss.backward()
                opt.step()
                total += loss.item()
                flor.log("Q", loss.item())
            acc = evaluate(model)
        """,
    ),
    Case(
        "a step that was a function of its own",
        NEW,
        """
        import flor_dagster as flor

        def step(model, opt, x, y):
            out = model(x)
            loss = criterion(out, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            return loss.item()

        def train(model, loader, epochs):
            opt = make_optimizer(model)
            for epoch in flor.loop("epoch", range(epochs)):
                total = 0.0
                for x, y in flor.loop("step", loader):
                    total += step(model, opt, x, y)
                acc = evaluate(model)
                print(acc)
            return model
        """,
        """
        import flor_dagster as flor

        def step(model, opt, x, y):
            out = model(x)
            loss = criterion(out, y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            flor.log("Q", loss.item())
            return loss.item()

        def train(model, loader, epochs):
            opt = make_optimizer(model)
            for epoch in flor.loop("epoch", range(epochs)):
                total = 0.0
                for x, y in flor.loop("step", loader):
                    total += step(model, opt, x, y)
                acc = evaluate(model)
                print(acc)
            return model
        """,
    ),
    Case(
        "a whole new branch travels as one",
        """
        import flor_dagster as flor
        for step in range(10):
            w = update(w)
            if step % 2 == 0:
                flor.log("Q", w)
            print(step)
        """.replace("for step", "w = 1\n        for step"),
        """
        import flor_dagster as flor
        w = 1
        for k in range(10):
            w = update(w)
            print(k)
        """,
        """
        import flor_dagster as flor
        w = 1
        for k in range(10):
            w = update(w)
            if k % 2 == 0:
                flor.log("Q", w)
            print(k)
        """,
    ),
    Case(
        "a branch that the old version has keeps the statement",
        """
        import flor_dagster as flor
        for step in range(10):
            w = step + 1
            if step % 2 == 0:
                flor.log("Q", w)
        """,
        """
        import flor_dagster as flor
        for step in range(10):
            w = step + 1
            if step % 2 == 0:
                print(w)
        """,
        """
        import flor_dagster as flor
        for step in range(10):
            w = step + 1
            if step % 2 == 0:
                flor.log("Q", w)
                print(w)
        """,
    ),
    Case(
        "our import and a helper travel along",
        """
        import flor_dagster as flor
        import numpy as np

        def smooth(values):
            kept = []
            for value in values:
                kept.append(value / 2)
            return np.mean(kept)

        values = load()
        values = clean(values)
        flor.log("Q", smooth(values))
        """,
        '''
        """An old script."""
        import os

        values = load()
        values = clean(values)
        ''',
        '''
        """An old script."""
        import os
        import flor_dagster as flor

        values = load()
        values = clean(values)
        import numpy as np
        def smooth(values):
            kept = []
            for value in values:
                kept.append(value / 2)
            return np.mean(kept)
        flor.log("Q", smooth(values))
        ''',
    ),
    Case(
        "state that was no attribute yet",
        """
        import flor_dagster as flor
        class Trainer:
            def run(self, data):
                self.weight = initial(data)
                for row in data:
                    self.weight = improve(self.weight, row)
                    flor.log("Q", self.weight)
        Trainer().run(read())
        """,
        """
        import flor_dagster as flor
        def run(data):
            weight = initial(data)
            for row in data:
                weight = improve(weight, row)
        run(read())
        """,
        """
        import flor_dagster as flor
        def run(data):
            weight = initial(data)
            for row in data:
                weight = improve(weight, row)
                flor.log("Q", weight)
        run(read())
        """,
    ),
    Case(
        "settings that moved to another object",
        """
        import flor_dagster as flor
        args = parser.parse_args()
        net = build(args.width)
        data = load(args.path)
        flor.log("Q", args.width)
        fit(net, data)
        """,
        """
        import flor_dagster as flor
        cfg = read_config()
        net = build(cfg.model.width)
        data = load(cfg.path)
        fit(net, data)
        """,
        """
        import flor_dagster as flor
        cfg = read_config()
        net = build(cfg.model.width)
        data = load(cfg.path)
        flor.log("Q", cfg.model.width)
        fit(net, data)
        """,
    ),
    Case(
        "swapped order of independent statements",
        """
        import flor_dagster as flor
        for i in range(3):
            entropy = spread(policy)
            value = worth(policy)
            flor.log("Q", value)
            loss = entropy + value
        """,
        """
        import flor_dagster as flor
        for i in range(3):
            value = worth(policy)
            entropy = spread(policy)
            loss = entropy + value
        """,
        """
        import flor_dagster as flor
        for i in range(3):
            value = worth(policy)
            entropy = spread(policy)
            flor.log("Q", value)
            loss = entropy + value
        """,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.promise)
def test_a_statement_lands_where_it_belongs(case: Case) -> None:
    result = ask(case.new, case.old)
    assert [r.sentence for r in result.refusals] == []
    assert result.source == textwrap.dedent(case.expected).lstrip("\n")
    assert without_added(result) == textwrap.dedent(case.old).lstrip("\n")


def test_several_statements_keep_their_order() -> None:
    new = NEW.replace(
        'flor.log("Q", loss.item())', 'flor.log("A", loss.item())\n            flor.log("B", total)'
    )
    old = NEW.replace('            flor.log("Q", loss.item())\n', "")
    result = ask(new, old, "A", "B")
    assert result.source == textwrap.dedent(new).lstrip("\n")
    assert [p.lines for p in result.placements] == [(14, 14), (15, 15)]


def test_the_counterpart_of_a_statement_is_there_already_under_the_old_names() -> None:
    old = NEW.replace("loss", "err")
    result = ask(NEW, old)
    (placement,) = result.placements
    assert placement.status == "already-there"
    assert result.added == ()
    assert result.source == old.lstrip("\n")
    assert 'flor.log("Q", err.item())' in result.source.splitlines()[placement.lines[0] - 1]


def test_another_expression_under_the_same_name_is_placed_beside_it() -> None:
    new = NEW.replace('flor.log("Q", loss.item())', 'flor.log("Q", loss.item() * 2)')
    result = ask(new, NEW)
    (placement,) = result.placements
    assert placement.status == "placed"
    lines = [line.strip() for line in result.source.splitlines()]
    assert lines[placement.lines[0] - 1] == 'flor.log("Q", loss.item() * 2)'
    assert lines[placement.lines[0] - 2] == 'flor.log("Q", loss.item())'


def test_the_same_name_in_another_loop_is_no_counterpart() -> None:
    old = NEW.replace('            flor.log("Q", loss.item())\n', "").replace(
        "        print(acc)\n", '        print(acc)\n        flor.log("Q", loss.item())\n'
    )
    (placement,) = ask(NEW, old).placements
    assert placement.status == "placed"


def test_the_place_does_not_depend_on_what_was_asked_before() -> None:
    old = NEW.replace('            flor.log("Q", loss.item())\n', "")
    first = ask(NEW, old)
    ask(NEW + "\n", old)
    assert ask(NEW, old) == first
