"""One script through many versions: what a statement logs in each is what it logs in the newest one.

All versions compute the same numbers, so that the values themselves tell whether a statement stands in the right place.
"""

from __future__ import annotations

import sys
import types

import pytest

from flor_dagster.propagation import find_statements, propagate

NEWEST = """
import flor_dagster as flor

rate = 0.1
data = [(1.0, 2.0), (2.0, 3.5), (3.0, 7.0)]


def gradient(w, b, x, y):
    error = w * x + b - y
    return 2 * error * x, 2 * error


w, b = 0.0, 0.0
for epoch in flor.loop("epoch", range(4)):
    total = 0.0
    for x, y in flor.loop("step", data):
        gw, gb = gradient(w, b, x, y)
        w -= rate * gw
        b -= rate * gb
        total += (w * x + b - y) ** 2
    mse = total / len(data)
    flor.log("mse", mse)
score = w + b
print(score)
"""

STEP = "        b -= rate * gb\n"
EPOCH = "    mse = total / len(data)\n"
END = "score = w + b\n"
HELPER = "def spread(p, q):\n    gap = abs(p - q)\n    return gap * gap\n\n\nw, b = 0.0, 0.0\n"

QUESTIONS = {
    "epoch-level": (EPOCH, EPOCH + '    flor.log("Q", w * mse)\n'),
    "step-level": (STEP, STEP + '        flor.log("Q", gw + 2 * gb)\n'),
    "end of script": (END, END + 'flor.log("Q", score)\n'),
    "in a new branch": (EPOCH, EPOCH + '    if epoch % 2 == 0:\n        flor.log("Q", mse)\n'),
    "with a new helper": (EPOCH, EPOCH + '    flor.log("Q", spread(w, b))\n'),
}


def edited(*changes: tuple[str, str]) -> str:
    source = NEWEST
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    return source


def indented(source: str) -> str:
    return "".join("    " + line if line.strip() else line for line in source.splitlines(keepends=True))


HEAD, BODY = NEWEST.split("w, b = 0.0, 0.0\n")
BODY = "w, b = 0.0, 0.0\n" + BODY
LOOP = BODY.split("    total = 0.0\n")

VERSIONS = {
    "the same": NEWEST,
    "reformatted": edited(
        ("w, b = 0.0, 0.0", "(w, b) = (0.0,\n          0.0)"), ("    total = 0.0\n", "\n    # sum\n    total = 0.0\n\n")
    ),
    "local rename": edited(("total", "squares")),
    "global rename": edited(("rate", "lr"), ("gw", "grad_w"), ("gb", "grad_b"), ("mse = ", "err = "), ('"mse", mse', '"mse", err')),
    "loop variables renamed": edited(("epoch in", "e in"), ("x, y in", "u, v in"), ("w, b, x, y)\n        w", "w, b, u, v)\n        w"), ("(w * x + b - y) ** 2", "(w * u + b - v) ** 2")),
    "functions moved": edited(("data = [", "def unused():\n    return 1\n\n\ndata = [")),
    "main()": HEAD + "def main():\n" + indented(BODY) + "\n\nmain()\n",
    "main guard": HEAD + 'if __name__ == "__main__":\n' + indented(BODY),
    "enumerate": edited(('for x, y in flor.loop("step", data)', 'for k, (x, y) in enumerate(flor.loop("step", data))')),
    "while": edited(
        ('for epoch in flor.loop("epoch", range(4)):\n', "epoch = -1\nwhile epoch < 3:\n    epoch += 1\n")
    ),
    "reordered": edited(("        w -= rate * gw\n        b -= rate * gb\n", "        b -= rate * gb\n        w -= rate * gw\n")),
    "try": edited(
        (
            "        gw, gb = gradient(w, b, x, y)\n",
            "        try:\n            gw, gb = gradient(w, b, x, y)\n        except ValueError:\n            raise\n",
        )
    ),
    "with": edited(
        (BODY.split("\n", 1)[1].split("score")[0], "with open('/dev/null'):\n" + indented(BODY.split("\n", 1)[1].split("score")[0]))
    ),
    "step extracted": edited(
        (
            "w, b = 0.0, 0.0\n",
            ("def step(w, b, x, y):\n    gw, gb = gradient(w, b, x, y)\n    w -= rate * gw\n    b -= rate * gb\n"
            "    return w, b\n\n\nw, b = 0.0, 0.0\n"),
        ),
        (
            "        gw, gb = gradient(w, b, x, y)\n        w -= rate * gw\n        b -= rate * gb\n        total",
            "        w, b = step(w, b, x, y)\n        total",
        ),
    ),
    "inlined gradient": edited(
        ("        gw, gb = gradient(w, b, x, y)\n", "        error = w * x + b - y\n        gw, gb = 2 * error * x, 2 * error\n")
    ),
    "a class": HEAD
    + "class Fit:\n    def run(self):\n"
    + indented(indented(BODY.replace("w, b = 0.0, 0.0", "self.w, self.b = 0.0, 0.0")))
    .replace("gradient(w, b,", "gradient(self.w, self.b,")
    .replace(" w -= ", " self.w -= ")
    .replace(" b -= ", " self.b -= ")
    .replace("(w * x + b - y)", "(self.w * x + self.b - y)")
    .replace("score = w + b", "score = self.w + self.b")
    + "\n\nFit().run()\n",
    "swapped names": edited(
        ("gw, gb = gradient", "gb, gw = gradient"),
        ("w -= rate * gw", "w -= rate * gb"),
        ("b -= rate * gb\n        t", "b -= rate * gw\n        t"),
    ),
    "a second loop before": edited(
        ("w, b = 0.0, 0.0\n", "warm = 0.0\nfor x, y in data:\n    warm += x * y\nw, b = 0.0, 0.0\n")
    ),
    "other log lines": edited(("    total = 0.0\n", '    total = 0.0\n    flor.log("start", w)\n')),
    "renamed, reordered and reformatted at once": edited(
        ("        w -= rate * gw\n        b -= rate * gb\n", "        b -= (\n            lr * gb)\n\n        w -= lr*gw\n"),
        ("rate = 0.1", "lr=.1"),
        ("total += ", "squares = squares + "),
        ("    total = 0.0", "    squares = 0."),
        ("mse = total / len(data)", "err = squares/len( data )"),
        ('"mse", mse', '"mse", err'),
    ),
    "noise": edited(("        total +=", "        seen = x\n        total +="), ("print(score)", "print('done')\nprint(score)")),
}  # fmt: skip


def values(source: str) -> list[float]:
    """What the statement `Q` logs when a script runs."""
    logged: list[float] = []
    fake = types.ModuleType("flor_dagster")
    fake.loop = lambda name, items: items  # type: ignore[attr-defined]
    fake.log = lambda name, value: logged.append(value) if name == "Q" else None  # type: ignore[attr-defined]
    real = sys.modules.get("flor_dagster")
    sys.modules["flor_dagster"] = fake
    try:
        exec(compile(source, "script", "exec"), {"__name__": "__main__", "print": lambda *_: None})
    finally:
        if real is not None:
            sys.modules["flor_dagster"] = real
    return logged


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_values_are_those_of_the_newest_version(question: str, version: str) -> None:
    anchor, statement = QUESTIONS[question]
    new = NEWEST.replace(anchor, statement)
    if "helper" in question:
        new = new.replace("w, b = 0.0, 0.0\n", HELPER)
    lines = [s.lines[0] for s in find_statements(new) if s.name == "Q"]
    result = propagate(new, VERSIONS[version], lines)
    assert [r.sentence for r in result.refusals] == []
    assert values(result.source) == pytest.approx(values(new), rel=1e-12)
    assert values(new)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(
    "setting",
    [("rate = 0.1", "rate = 0.02"), ("range(4)", "range(7)"), ("w, b = 0.0, 0.0", "w, b = 1.0, -1.0")],
)
def test_other_settings_give_that_versions_values(question: str, setting: tuple[str, str]) -> None:
    anchor, statement = QUESTIONS[question]
    new = NEWEST.replace(anchor, statement)
    if "helper" in question:
        new = new.replace("w, b = 0.0, 0.0\n", HELPER)
    lines = [s.lines[0] for s in find_statements(new) if s.name == "Q"]
    result = propagate(new, edited(setting), lines)
    assert [r.sentence for r in result.refusals] == []
    assert values(result.source) == values(new.replace(*setting))


GONE = {
    "epoch-level": ("mse", '    mse = total / len(data)\n    flor.log("mse", mse)\n'),
    "step-level": (
        "gw",
        "        gw, gb = gradient(w, b, x, y)\n        w -= rate * gw\n        b -= rate * gb\n",
    ),
    "end of script": ("score", "score = w + b\nprint(score)\n"),
    "in a new branch": ("mse", '    mse = total / len(data)\n    flor.log("mse", mse)\n'),
}


@pytest.mark.parametrize("question", GONE)
def test_a_version_without_the_variable_is_refused_by_its_name(question: str) -> None:
    anchor, statement = QUESTIONS[question]
    new = NEWEST.replace(anchor, statement)
    name, lines = GONE[question]
    old = edited((lines, ""))
    result = propagate(new, old, [s.lines[0] for s in find_statements(new) if s.name == "Q"])
    assert [r.missing for r in result.refusals] == [name]
    assert result.source == old
