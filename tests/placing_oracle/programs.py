"""Small training programs that run, made at random: loops, branches, helpers, objects, changes in place."""

from __future__ import annotations

import ast
import random
from dataclasses import dataclass, field

HELPERS = """
LIMIT = 2.5
ALWAYS = True

def slope(w, k):
    return [x * 0.5 + k * 0.1 for x in w]

def clip(v, most):
    size = length(v)
    if size > most:
        return [x * most / size for x in v]
    return list(v)

def length(v):
    return sum(x * x for x in v) ** 0.5

def bump(w, d):
    for i in range(len(w)):
        w[i] -= 0.1 * d[i]

class Meter:
    def __init__(self):
        self.total = 0.0
        self.count = 0
        self.last = 0.0

    def add(self, v):
        self.total += v
        self.count += 1
        self.last = v

    def reset(self):
        self.total = 0.0
        self.count = 0

    def mean(self):
        return self.total / max(self.count, 1)

class Quiet:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False
"""

NUMBERS = ["loss", "size", "score", "rate", "best", "shift"]
VECTORS = ["g", "d", "u"]
PROBE = "Q"


@dataclass
class Scope:
    """The names that hold something at a point of the program."""

    numbers: list[str] = field(default_factory=list)
    vectors: list[str] = field(default_factory=list)
    indices: list[str] = field(default_factory=list)

    def copy(self) -> Scope:
        return Scope(list(self.numbers), list(self.vectors), list(self.indices))

    def know(self, name: str) -> None:
        names = self.vectors if name in VECTORS else self.numbers
        if name not in names:
            names.append(name)


class Maker:
    """Writes the body of one program; a probe is put behind one of its statements."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.places: list[tuple[list[ast.stmt], int, Scope]] = []

    def program(self) -> list[ast.stmt]:
        scope = Scope(["total"], ["w"], [])
        head = self.parse(
            "w = [1.0, -2.0, 3.0]\nmeter = Meter()\nrow = {'first': 1.0}\ntotal = 0.0\nhistory = []"
        )
        body = list(head)
        self.fill(body, scope, depth=0, size=self.rng.randint(1, 3))
        self.loop(body, scope, "epoch", depth=0)
        self.fill(body, scope, depth=0, size=self.rng.randint(1, 3))
        body += self.parse("history.append(total)\nmeter.add(length(w))")
        self.note(body, scope)
        return body

    @staticmethod
    def parse(text: str) -> list[ast.stmt]:
        return ast.parse(text).body

    def note(self, block: list[ast.stmt], scope: Scope) -> None:
        self.places.append((block, len(block), scope.copy()))

    def number(self, scope: Scope) -> str:
        a, b = self.rng.choice(scope.numbers), self.rng.choice(scope.numbers)
        v = self.rng.choice(scope.vectors)
        choices = [
            f"length({v})",
            f"{a} + {b} * 0.5",
            f"{v}[0] * 2.0",
            "meter.mean()",
            f"abs({a}) + 1.0",
            f"{a} / 2.0",
        ]
        choices += [f"{a} + {i}" for i in scope.indices]
        return self.rng.choice(choices)

    def vector(self, scope: Scope) -> str:
        v = self.rng.choice(scope.vectors)
        k = self.rng.choice([*scope.indices, "1", "2"])
        return self.rng.choice(
            [f"slope({v}, {k})", f"clip({v}, LIMIT)", f"[x + 0.25 for x in {v}]", f"slope(w, {k})"]
        )

    def simple(self, block: list[ast.stmt], scope: Scope) -> None:
        kind = self.rng.randrange(10)
        if kind <= 2:
            name = self.rng.choice(NUMBERS)
            text = f"{name} = {self.number(scope)}"
            scope.know(name)
        elif kind <= 4:
            name = self.rng.choice(VECTORS)
            text = f"{name} = {self.vector(scope)}"
            scope.know(name)
        elif kind == 5:
            text = f"bump(w, {self.rng.choice(scope.vectors)})"
        elif kind == 6:
            text = f"total += {self.number(scope)}"
        elif kind == 7:
            text = self.rng.choice([f"meter.add({self.number(scope)})", "meter.reset()"])
        elif kind == 8:
            text = f"row['{self.rng.choice(['a', 'b'])}'] = {self.number(scope)}"
        else:
            text = f"w[{self.rng.randrange(3)}] = {self.number(scope)}"
        block += self.parse(text)

    def fill(self, block: list[ast.stmt], scope: Scope, depth: int, size: int) -> None:
        for _ in range(size):
            kind = self.rng.randrange(12)
            if kind == 0 and depth < 3:
                self.branch(block, scope, depth)
            elif kind == 1 and depth < 3:
                self.loop(block, scope, self.rng.choice(["part", "turn"]) + str(depth), depth)
            else:
                self.simple(block, scope)
            self.note(block, scope)

    def branch(self, block: list[ast.stmt], scope: Scope, depth: int) -> None:
        (node,) = self.parse(
            f"if {self.rng.choice(scope.numbers)} > {self.rng.choice(['0.5', '2.0', 'LIMIT'])}:\n    pass"
        )
        assert isinstance(node, ast.If)
        node.body.clear()
        self.fill(node.body, scope.copy(), depth + 1, self.rng.randint(1, 2))
        if self.rng.random() < 0.4:
            self.fill(node.orelse, scope.copy(), depth + 1, self.rng.randint(1, 2))
        block.append(node)

    def loop(self, block: list[ast.stmt], scope: Scope, index: str, depth: int) -> None:
        (node,) = self.parse(f"for {index} in range({self.rng.randint(2, 3)}):\n    pass")
        assert isinstance(node, ast.For)
        node.body.clear()
        inner = scope.copy()
        inner.indices.append(index)
        self.note(node.body, inner)
        self.fill(node.body, inner, depth + 1, self.rng.randint(2, 4))
        if index == "epoch":
            self.loop(node.body, inner, "step", depth + 1)
            self.fill(node.body, inner, depth + 1, self.rng.randint(1, 3))
        block.append(node)
        self.note(block, scope)

    def expression(self, scope: Scope) -> str:
        a, v = self.rng.choice(scope.numbers), self.rng.choice(scope.vectors)
        return self.rng.choice(
            [
                a,
                a,
                f"length({v})",
                f"{v}[0]",
                f"list({v})",
                "meter.total",
                "meter.mean()",
                f"({a}, {v}[1])",
                "dict(row)",
            ]
        )


def probe(expression: str) -> ast.stmt:
    return ast.parse(f'flor.log("{PROBE}", {expression})').body[0]


def is_probe(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "flor.log"
    )


def make(rng: random.Random) -> list[ast.stmt]:
    """A program with a probe somewhere."""
    maker = Maker(rng)
    body = maker.program()
    block, position, scope = rng.choice(maker.places)
    block.insert(position, probe(maker.expression(scope)))
    return body
