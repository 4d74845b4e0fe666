"""What is placed is executed: every kind of travel and of place gives what the old code gives with the statement written by hand."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import Lab, bits

pytestmark = pytest.mark.ci

BY_HAND = "#! "
"""Before a line of an old version that only the oracle has: the statement, where a person puts it, in the old names."""

HEAD = "import flor_dagster as flor\n"
PART = """\
import flor_dagster as flor


def go():
    w = [1.0, 2.0]
    for epoch in flor.loop("epoch_{0}", range(2)):
        for step in flor.loop("step_{0}", range(3)):
            w[0] *= 0.9
            w[1] += w[0]
        flor.log("loss_{0}", w[0])
"""


def part(name: str, statement: str, *, above: str = "") -> tuple[str, str]:
    """A part of a training, and the same with a statement at the end of its outer loop and a head above."""
    text = PART.format(name)
    head, rest = text.split("\n", 1)
    old = text + textwrap.indent(textwrap.dedent(above + statement), f"        {BY_HAND}", lambda _: True)
    return old, f"{head}\n{above}{rest}{textwrap.indent(statement, '        ')}"


# A module's old version, in which the lines that start with `#! ` are the oracle's, and its newest version.
TRAVELS: dict[str, tuple[str, str]] = {
    "import": part("import", 'flor.log("Q_import", math.sqrt(w[0]))\n', above="import math\n"),
    "from_import": part("from_import", 'flor.log("Q_from_import", root(w[0]))\n', above="from math import sqrt as root\n"),
    "dotted_import": part("dotted_import", 'flor.log("Q_dotted_import", os.path.basename("a/b"))\n', above="import os.path\n"),
    "never_imported": part(
        "never_imported", 'flor.log("Q_never_imported", colorsys.rgb_to_hls(*w, 0.5)[0])\n', above="import colorsys\n"
    ),
    "import_or_another": part(
        "import_or_another",
        'flor.log("Q_import_or_another", fast.sqrt(w[0]))\n',
        above="try:\n    import no_such_module as fast\nexcept ImportError:\n    import math as fast\n",
    ),
    "helper": part("helper", 'flor.log("Q_helper", spread(w))\n', above="def spread(v):\n    return max(v) - min(v)\n"),
    "helper_with_constant": part(
        "helper_with_constant",
        'flor.log("Q_helper_with_constant", scaled(w))\n',
        above="FACTOR = 3.0\ndef scaled(v):\n    return FACTOR * max(v)\n",
    ),
    "helper_with_import": part(
        "helper_with_import",
        'flor.log("Q_helper_with_import", entropy(w))\n',
        above="import math\ndef entropy(v):\n    return -sum(x * math.log(x) for x in v)\n",
    ),
    "helper_of_helper": part(
        "helper_of_helper",
        'flor.log("Q_helper_of_helper", outer(w))\n',
        above="def inner(v):\n    return v[0] * 2\ndef outer(v):\n    return inner(v) + 1\n",
    ),
    "constant": part("constant", 'flor.log("Q_constant", w[0] * SCALE)\n', above="SCALE = 10.0\n"),
    "loop": part("loop", 'for i, v in enumerate(w):\n    flor.log("Q_loop", v * i)\n'),
    "empty_loop": part("empty_loop", 'for v in w[5:]:\n    flor.log("Q_empty_loop", v)\nflor.log("Q_after_it", w[0])\n'),
    "nested_loops": part("nested_loops", 'for a in w:\n    for b in w:\n        flor.log("Q_nested_loops", a * b)\n'),
    "with": part(
        "with", 'with contextlib.suppress(KeyError) as caught:\n    flor.log("Q_with", (w[0], caught))\n', above="import contextlib\n"
    ),
    "if": part("if", 'if w[0] > 0.6:\n    flor.log("Q_if", w[0])\n'),
    "if_else": part("if_else", 'if w[0] > 0.6:\n    flor.log("Q_if_else", w[0])\nelse:\n    flor.log("Q_else", w[1])\n'),
    "try": part("try", 'try:\n    flor.log("Q_try", w[7])\nexcept IndexError as error:\n    flor.log("Q_try", str(error))\n'),
    "try_finally": part("try_finally", 'try:\n    flor.log("Q_try_finally", w[0])\nfinally:\n    flor.log("Q_finally", w[1])\n'),
    "two_of_one_block": part(
        "two_of_one_block", 'if w[0] > 0.6:\n    flor.log("Q_two_of_one_block", w[0])\n    flor.log("Q_second", w[0] * 2)\n'
    ),
    "value_in_between": part(
        "value_in_between", 'for k, v in enumerate(w):\n    flor.log("Q_value_in_between", v)\n    flor.log("Q_number", k)\n'
    ),
    "text_over_lines": part("text_over_lines", 'flor.log("Q_text_over_lines", f"""{w[0]}\n  and\nmore""")\n'),
}  # fmt: skip


def without(text: str) -> str:
    """The recorded version."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith(BY_HAND))


def by_hand(text: str) -> str:
    """The oracle: the recorded version with the statements written by hand."""
    return text.replace(BY_HAND, "").replace(BY_HAND.rstrip(), "")


def names_in(files: Mapping[str, str]) -> list[str]:
    texts = [piece.split('"')[0] for text in files.values() for piece in text.split('flor.log("Q_')[1:]]
    return sorted({f"Q_{text}" for text in texts})


def rows(workspace_rows: object, name: str) -> list[tuple[object, ...]]:
    frame = workspace_rows.store.dataframe(name).drop(columns="run")  # type: ignore[attr-defined]
    return [tuple(bits(v) for v in row) for row in frame[frame[name].notna()].itertuples(index=False)]


def replay_and_oracle(
    lab: Lab, old: Mapping[str, str], new: Mapping[str, str], *, together: bool
) -> dict[str, tuple[str, object, object]]:
    """Record the old files, ask all names of the new ones, and record the oracle: name → sentence, values, oracle's values."""
    lab.commit({name: without(text) for name, text in old.items()})
    lab.train()
    lab.write(new)
    for gone in old.keys() - new.keys():
        (lab.root / gone).unlink()
    oracle = Lab(lab.root.parent / "oracle")
    oracle.commit({name: by_hand(text) for name, text in old.items()})
    oracle.train()
    found: dict[str, tuple[str, object, object]] = {}
    names = names_in(new)
    with lab.open() as workspace, oracle.open() as truth:
        truth.sync()
        for asked in [names] if together else [[name] for name in names]:
            for answer in workspace.answer(Question(tuple(asked), accept_likely=True)).cells:
                name = answer.statement.name
                told = f"{answer.cell.status} {answer.cell.fidelity}: {answer.cell.sentence}"
                values = rows(workspace, name) if name in workspace.store.names() else []
                found[name] = told, values, rows(truth, name) if name in truth.store.names() else []
    assert sorted(found) == names
    return found


def check(found: Mapping[str, tuple[str, object, object]]) -> None:
    wrong = {n: f for n, f in found.items() if f[1] != f[2] or not f[0].startswith("replayed exact")}
    assert not wrong, "\n".join(f"{n}: {f}" for n, f in wrong.items())


def project(parts: Mapping[str, tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    main = HEAD + "".join(f"import part_{n}\npart_{n}.go()\n" for n in parts) + 'flor.log("end", 1)\n'
    old = {"train.py": main} | {f"part_{n}.py": texts[0] for n, texts in parts.items()}
    new = {"train.py": main} | {f"part_{n}.py": texts[1] for n, texts in parts.items()}
    return old, new


def test_every_kind_of_travel_gives_what_the_old_code_gives_with_it(lab: Lab) -> None:
    check(replay_and_oracle(lab, *project(TRAVELS), together=True))


def in_script(texts: tuple[str, str], name: str) -> tuple[dict[str, str], dict[str, str]]:
    """A part as a script of its own: the same code at the top level."""

    def flat(text: str) -> str:
        head, body = text.split("def go():\n")
        return head + textwrap.dedent(body)

    return {"train.py": flat(texts[0])}, {"train.py": flat(texts[1])}


@pytest.mark.parametrize("kind", ["two_of_one_block"])
def test_what_travels_leaves_nothing_behind_at_the_top_of_a_script(lab: Lab, kind: str) -> None:
    check(replay_and_oracle(lab, *in_script(TRAVELS[kind], kind), together=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(TRAVELS))
def test_every_kind_of_travel_survives_alone_in_a_script(lab: Lab, kind: str) -> None:
    check(replay_and_oracle(lab, *in_script(TRAVELS[kind], kind), together=False))


# Old version with the statement by hand, and the newest version, in which the code around the statement is another one.
PLACES: dict[str, tuple[str, str]] = {
    "renamed": (
        HEAD + 'def go():\n    v = [1.0]\n    for epoch in flor.loop("e_renamed", range(3)):\n        v[0] *= 0.9\n'
        '        #! flor.log("Q_renamed", v[0] + 1)\n        flor.log("l_renamed", v[0])\n',
        HEAD + 'def go():\n    weights = [1.0]\n    for epoch in flor.loop("e_renamed", range(3)):\n        weights[0] *= 0.9\n'
        '        flor.log("Q_renamed", weights[0] + 1)\n        flor.log("l_renamed", weights[0])\n',
    ),
    "inlined": (
        HEAD + 'def go():\n    w = [1.0]\n    for epoch in flor.loop("e_inlined", range(3)):\n        total = 0.0\n'
        '        for step in flor.loop("s_inlined", range(4)):\n            w[0] *= 0.9\n            total += w[0]\n'
        '        #! flor.log("Q_inlined", w[0])\n        flor.log("l_inlined", total)\n',
        HEAD + 'def train(w):\n    total = 0.0\n    for step in flor.loop("s_inlined", range(4)):\n        w[0] *= 0.9\n'
        '        total += w[0]\n    return total\ndef go():\n    w = [1.0]\n    for epoch in flor.loop("e_inlined", range(3)):\n'
        '        total = train(w)\n        flor.log("Q_inlined", w[0])\n        flor.log("l_inlined", total)\n',
    ),
    "extracted": (
        HEAD + "def step(w):\n    w[0] *= 0.9\n    half = w[0] / 2\n    #! flor.log(\"Q_extracted\", half)\n    w[1] += half\n"
        'def go():\n    w = [1.0, 0.0]\n    for epoch in flor.loop("e_extracted", range(3)):\n        step(w)\n'
        '        flor.log("l_extracted", w[1])\n',
        HEAD + 'def go():\n    w = [1.0, 0.0]\n    for epoch in flor.loop("e_extracted", range(3)):\n        w[0] *= 0.9\n'
        '        half = w[0] / 2\n        flor.log("Q_extracted", half)\n        w[1] += half\n        flor.log("l_extracted", w[1])\n',
    ),
    "branches": (
        HEAD + 'def go():\n    w = [1.0]\n    for epoch in flor.loop("e_branches", range(4)):\n        w[0] *= 0.9\n'
        "        if epoch % 2:\n            a = w[0] + 1\n            #! flor.log(\"Q_then\", a)\n        else:\n            a = w[0] - 1\n"
        '            #! flor.log("Q_otherwise", a)\n        try:\n            b = 1 / epoch\n            #! flor.log("Q_tried", b)\n'
        '        except ZeroDivisionError:\n            b = 0.0\n            #! flor.log("Q_handled", b)\n        finally:\n'
        '            w[0] += 0.1\n            #! flor.log("Q_finished", w[0])\n        flor.log("l_branches", a + b)\n',
        HEAD + 'def go():\n    w = [1.0]\n    for epoch in flor.loop("e_branches", range(4)):\n        w[0] *= 0.9\n'
        "        if epoch % 2:\n            a = w[0] + 1\n            flor.log(\"Q_then\", a)\n        else:\n            a = w[0] - 1\n"
        '            flor.log("Q_otherwise", a)\n        try:\n            b = 1 / epoch\n            flor.log("Q_tried", b)\n'
        '        except ZeroDivisionError:\n            b = 0.0\n            flor.log("Q_handled", b)\n        finally:\n'
        '            w[0] += 0.1\n            flor.log("Q_finished", w[0])\n        flor.log("l_branches", a + b)\n',
    ),
    "wrapped": (
        HEAD + 'import contextlib\ndef go():\n    w = [1.0]\n    for epoch in flor.loop("e_wrapped", range(3)):\n'
        "        with contextlib.nullcontext():\n            w[0] *= 0.9\n            #! flor.log(\"Q_wrapped\", w[0])\n"
        '            w[0] += 0.5\n        flor.log("l_wrapped", w[0])\n',
        HEAD + 'import contextlib\ndef go():\n    w = [1.0]\n    for epoch in flor.loop("e_wrapped", range(3)):\n        w[0] *= 0.9\n'
        '        flor.log("Q_wrapped", w[0])\n        w[0] += 0.5\n        flor.log("l_wrapped", w[0])\n',
    ),
    "while": (
        HEAD + 'def go():\n    w = [1.0]\n    for epoch in flor.loop("e_while", range(2)):\n        k = 0\n        while k < 3:\n'
        '            w[0] *= 0.9\n            #! flor.log("Q_while", w[0])\n            k += 1\n        flor.log("l_while", w[0])\n',
        HEAD + 'def go():\n    w = [1.0]\n    for epoch in flor.loop("e_while", range(2)):\n        for k in range(3):\n'
        '            w[0] *= 0.9\n            flor.log("Q_while", w[0])\n        flor.log("l_while", w[0])\n',
    ),
    "after_and_before": (
        HEAD + 'def go():\n    w = [1.0]\n    #! flor.log("Q_before", w[0])\n    for epoch in flor.loop("e_around", range(3)):\n'
        '        w[0] *= 0.9\n        flor.log("l_around", w[0])\n    #! flor.log("Q_after", w[0])\n',
        HEAD + 'def go():\n    w = [1.0]\n    flor.log("Q_before", w[0])\n    for epoch in flor.loop("e_around", range(3)):\n'
        '        w[0] *= 0.9\n        flor.log("l_around", w[0])\n    flor.log("Q_after", w[0])\n',
    ),
}  # fmt: skip


def test_every_kind_of_place_gives_what_the_old_code_gives_with_it(lab: Lab) -> None:
    check(replay_and_oracle(lab, *project(PLACES), together=True))


def test_statements_of_a_file_that_was_split_give_what_the_one_file_gives(lab: Lab) -> None:
    body = (
        'def fit(w):\n    for step in flor.loop("step", range(3)):\n        w[0] *= 0.9\n        {0}\n        w[1] += w[0]\n'
        "def score(w):\n    return w[0] * 2\n"
    )
    loop = (
        'w = [1.0, 0.0]\nfor epoch in flor.loop("epoch", range(2)):\n    fit(w)\n    shown = score(w)\n    {0}\n'
        '    flor.log("loss", w[1])\n'
    )
    inner, outer = 'flor.log("Q_inner", w[0])', 'flor.log("Q_outer", shown)'
    old = {"train.py": HEAD + body.format(BY_HAND + inner) + loop.format(BY_HAND + outer)}
    new = {
        "steps.py": HEAD + body.format(inner),
        "train.py": HEAD + "from steps import (fit,\n    score)\nimport math\n" + loop.format(outer),
    }
    check(replay_and_oracle(lab, old, new, together=True))
