"""A right place is confirmed, a wrong one is contradicted or doubted, and every input ends in a verdict."""

from __future__ import annotations

import textwrap

import pytest

from flor_dagster.placecheck import PlaceVerdict, Spot, check_place
from tests.placing_oracle.judging import answer, case_of, other_places
from tests.propagation import test_kinds, test_placing_cases

LOG = "flor.log("


def text(source: str) -> str:
    return textwrap.dedent(source).lstrip("\n")


def spot(files: dict[str, str]) -> Spot:
    (found,) = [
        (path, number)
        for path, source in files.items()
        for number, line in enumerate(source.split("\n"), 1)
        if LOG in line
    ]
    return Spot(found[0], (found[1], found[1]))


def check(new: str | dict[str, str], placed: str | dict[str, str]) -> PlaceVerdict:
    """The opinion on a placed statement; the old version is the placed one without its line."""
    news = {p: text(s) for p, s in new.items()} if isinstance(new, dict) else {"train.py": text(new)}
    after = (
        {p: text(s) for p, s in placed.items()} if isinstance(placed, dict) else {"train.py": text(placed)}
    )
    old = {p: "\n".join(line for line in s.split("\n") if LOG not in line) for p, s in after.items()}
    return check_place(news, old, after, spot(news), spot(after))


LOOP = """
    def train(model, data):
        opt = make(model)
        for epoch in range(3):
            total = 0.0
            for x in data:
                loss = criterion(model(x))
                {0}
                loss = loss / 2
                opt.step()
                total += loss
                {1}
            {2}
            show(total)
        {3}
    train(build(), load())
"""


def loop(at: int, statement: str = 'flor.log("Q", loss)') -> str:
    return LOOP.format(*(statement if n == at else "pass" for n in range(4)))


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("expression", ["loss", "total", "loss + total", "epoch"])
def test_the_same_place_is_certain(at: int, expression: str) -> None:
    assert (
        check(loop(at, f'flor.log("Q", {expression})'), loop(at, f'flor.log("Q", {expression})')).verdict
        == "certain"
    )


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("other", range(4))
def test_another_side_of_a_definition_or_another_loop_is_contradicted(at: int, other: int) -> None:
    if at != other:
        verdict = check(loop(at), loop(other))
        assert verdict.verdict == "contradicted"
        assert verdict.reasons


def test_renaming_keeps_a_place_certain() -> None:
    placed = loop(0).replace("loss", "err").replace("model", "net").replace("total", "summed")
    assert check(loop(0), placed).verdict == "certain"


TRAINED = """
    def train(w, data):
        for x in data:
            w = update(w, x)
        return w
    w = start()
    w = train(w, read())
    flor.log("Q", norm(w))
    save(w)
"""
INLINE = """
    w = start()
    {0}
    for x in read():
        w = update(w, x)
    {1}
    save(w)
"""


def test_training_in_a_function_is_training_inline() -> None:
    line = 'flor.log("Q", norm(w))'
    assert check(TRAINED, INLINE.format("pass", line)).verdict == "certain"
    assert check(TRAINED, INLINE.format(line, "pass")).verdict == "contradicted"


def test_functions_of_other_files_are_followed() -> None:
    line = 'flor.log("Q", norm(w))'
    steps, script = text(TRAINED).split("w = start()")
    new = {"steps.py": steps, "main.py": f"from steps import train\nw = start(){script}"}
    assert check(new, {"main.py": INLINE.format("pass", line)}).verdict == "certain"
    assert check(new, {"main.py": INLINE.format(line, "pass")}).verdict == "contradicted"


def test_what_a_called_function_changes_in_place_is_seen() -> None:
    new = """
        def shrink(w):
            w[0] = w[0] / 2
        def main(w):
            shrink(w)
            flor.log("Q", w[0])
            keep(w[0])
        main([1.0])
    """
    inline = "def main(w):\n    {}\n    w[0] = w[0] / 2\n    {}\n    keep(w[0])\nmain([1.0])\n"
    assert check(new, inline.format("pass", 'flor.log("Q", w[0])')).verdict == "certain"
    assert check(new, inline.format('flor.log("Q", w[0])', "pass")).verdict == "contradicted"


def test_a_definition_without_a_counterpart_is_doubted() -> None:
    new = 'g = grad(w)\nflor.log("Q", g)\ng = clip(g)\nuse(g)\n'
    assert check(new, 'g = own.clipped(w)\nflor.log("Q", g)\nuse(g)\n').verdict == "likely"
    assert check(new, 'g = clip(grad(w))\nflor.log("Q", g)\nuse(g)\n').verdict != "certain"


def test_a_transformation_that_one_version_has_is_doubted() -> None:
    with_it = 'y = net(x)\ny = y / heat\nflor.log("Q", y)\nuse(y)\n'
    without = 'y = net(x)\nflor.log("Q", y)\nuse(y)\n'
    assert check(with_it, without).verdict == "likely"
    assert check(without, with_it).verdict == "likely"


def test_a_call_that_sets_the_value_stays_on_its_side() -> None:
    new = 'timer = Watch()\ntimer.start()\nwork()\ntimer.stop()\nflor.log("Q", timer.sum)\nrest()\n'
    assert (
        check(
            new, 'timer = Watch()\ntimer.start()\nwork()\nflor.log("Q", timer.sum)\nrest()\ntimer.stop()\n'
        ).verdict
        == "contradicted"
    )
    assert check(new, new).verdict == "certain"


def test_what_an_optimizer_changes_is_seen_at_the_model() -> None:
    new = 'opt = SGD(net.parameters())\nfor x in xs:\n    loss(net, x)\n    opt.step()\n    flor.log("Q", net.weight.sum())\n'
    moved = 'opt = SGD(net.parameters())\nfor x in xs:\n    loss(net, x)\n    flor.log("Q", net.weight.sum())\n    opt.step()\n'
    assert check(new, new).verdict == "certain"
    assert check(new, moved).verdict == "contradicted"


def test_the_other_branch_is_contradicted() -> None:
    new = 'x = f(1)\nif big(x):\n    y = g(x)\n    flor.log("Q", y)\nelse:\n    y = g(x)\nuse(y)\n'
    other = 'x = f(1)\nif big(x):\n    y = g(x)\nelse:\n    y = g(x)\n    flor.log("Q", y)\nuse(y)\n'
    behind = 'x = f(1)\nif big(x):\n    y = g(x)\nelse:\n    y = g(x)\nflor.log("Q", y)\nuse(y)\n'
    assert check(new, new).verdict == "certain"
    assert check(new, other).verdict == "contradicted"
    assert check(new, behind).verdict == "contradicted"


def test_one_of_two_copies_is_no_place() -> None:
    new = 'def go(a):\n    y = f(a)\n    flor.log("Q", y)\n    keep(y)\ngo(1)\ngo(2)\n'
    old = "def start(a):\n    y = f(a)\n    {}\n    keep(y)\nstart(1)\ny = f(2)\nkeep(y)\n"
    assert check(new, old.format('flor.log("Q", y)')).verdict != "certain"


def test_a_dictionary_that_the_old_version_fills_further_is_doubted() -> None:
    new = 'row = {"a": a}\nflor.log("Q", row)\nwrite(row)\n'
    old = 'row = {"a": a}\nflor.log("Q", row)\nrow["b"] = b\nwrite(row)\n'
    assert check(new, old).verdict == "likely"


def test_loops_of_one_header_are_told_apart() -> None:
    one = "for i in range(3):\n    {}\n    use(i)\nfor i in range(3):\n    {}\n    keep(i)\n"
    new = one.format("pass", 'flor.log("Q", i)')
    assert check(new, new).verdict == "certain"
    assert check(new, one.format('flor.log("Q", i)', "pass")).verdict == "contradicted"


def test_for_and_while_are_one_loop() -> None:
    new = 'i = 0\nwhile i < 9:\n    y = step(i)\n    flor.log("Q", y)\n    keep(y)\n    i += 1\n'
    assert (
        check(new, 'for i in range(9):\n    y = step(i)\n    flor.log("Q", y)\n    keep(y)\n').verdict
        == "certain"
    )


def test_the_clock_is_read_between_the_same_statements() -> None:
    new = 't = time.time()\nwork(1)\nflor.log("Q", time.time() - t)\nrest = more(2)\nlast = end(3)\n'
    moved = 't = time.time()\nwork(1)\nrest = more(2)\nlast = end(3)\nflor.log("Q", time.time() - t)\n'
    assert check(new, new).verdict == "certain"
    assert check(new, moved).verdict != "certain"


def test_nothing_but_added_lines_may_differ() -> None:
    new = 'x = f(1)\nflor.log("Q", x)\nuse(x)\n'
    verdict = check_place(
        {"t.py": new},
        {"t.py": "x = f(1)\nuse(x)\n"},
        {"t.py": new.replace("f(1)", "f(2)")},
        Spot("t.py", (2, 2)),
        Spot("t.py", (2, 2)),
    )
    assert verdict.verdict == "contradicted"


def test_a_place_behind_a_return_is_none() -> None:
    new = 'def go(a):\n    b = f(a)\n    flor.log("Q", b)\n    return b\ngo(1)\n'
    moved = 'def go(a):\n    b = f(a)\n    return b\n    flor.log("Q", b)\ngo(1)\n'
    assert check(new, moved).verdict == "contradicted"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "x = (\n",
        "\0",
        "flor.log('Q', 1)\n",
        "x = 1\n" * 3000 + "flor.log('Q', x)\n",
        "x = " + "(" * 90 + "1" + ")" * 90,
    ],
)
def test_every_input_ends_in_a_verdict(source: str) -> None:
    for new, old in ((source, "flor.log('Q', 1)\n"), ("flor.log('Q', 1)\n", source), (source, source)):
        last = max(1, source.count("\n"))
        found = check_place(
            {"t.py": new}, {"t.py": old}, {"t.py": old}, Spot("t.py", (1, last)), Spot("t.py", (1, last))
        )
        assert found.verdict in ("certain", "likely", "contradicted")
        assert bool(found.reasons) == (found.verdict != "certain")
    assert check_place({}, {}, {}, Spot("t.py", (1, 1)), Spot("t.py", (1, 1))).verdict == "likely"


def test_deep_nesting_is_likely_with_the_reason() -> None:
    deep = "x = " + "+".join(["1"] * 3000) + "\nflor.log('Q', x)\n"
    found = check_place(
        {"t.py": deep}, {"t.py": deep}, {"t.py": deep}, Spot("t.py", (2, 2)), Spot("t.py", (2, 2))
    )
    assert found.verdict in ("certain", "likely")


def test_right_placements_of_every_kind_are_certain() -> None:
    """Of what propagation is tested with, at most one placement in twenty may be doubted, and none contradicted."""
    verdicts: list[PlaceVerdict] = []
    for case in test_placing_cases.CASES:
        new, old = text(case.new), text(case.old)
        result = test_placing_cases.ask(case.new, case.old)
        verdicts += [
            check_place(
                {"t.py": new},
                {"t.py": old},
                {"t.py": result.source},
                Spot("t.py", p.statement.lines),
                Spot("t.py", p.lines),
            )
            for p in result.placements
        ]
    for place in test_kinds.PLACES:
        new = f"{test_kinds.HEAD}E = ValueError\n{test_kinds.PLACES[place]}"
        old = test_kinds.taken_out(new)
        result = test_kinds.ask(new, old)
        verdicts += [
            check_place(
                {"t.py": new},
                {"t.py": old},
                {"t.py": result.source},
                Spot("t.py", p.statement.lines),
                Spot("t.py", p.lines),
            )
            for p in result.placements
        ]
    assert len(verdicts) > 50
    assert [v for v in verdicts if v.verdict == "contradicted"] == []
    assert sum(v.verdict != "certain" for v in verdicts) <= len(verdicts) / 20


# Programs of the mutation oracle on which an earlier form of the checker let a wrong place pass, and at how many places.
@pytest.mark.parametrize(
    ("seed", "places"),
    [(18, 10), (19, 10), (40, 10), (135, 4), (151, 4), (357, 4), (418, 4), (1067, 3), (1208, 1)],
)
def test_what_once_passed_is_seen(seed: int, places: int) -> None:
    import random

    case = case_of(seed)
    assert case is not None
    for found in (answer(case), *other_places(case, random.Random(seed), places)):
        assert not (found.is_wrong(case) and found.passes())
