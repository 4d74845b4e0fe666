"""Random training programs: whatever they do with their objects, a question about all of them is answered rightly or not at all.

A program has names of a few kinds (lists, dicts, objects, arrays, generators, functions…), which its loops rebind, change in
place, alias, hand to helpers and hold in places that no loop names. What is asked is everything that can be seen, with who shares
what. Each program is made from one number.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable

HELPERS = """\
import collections, copy, json, random
import numpy as np

STATE = {"seen": [], "count": 0}

class Thing:
    count = 0
    shared = []
    def __init__(self, best=0.0):
        self.best, self.items, self.table, self.child, self.arr = best, [], {}, None, np.zeros(2)
    def bump(self, x):
        self.best += x
        Thing.count += 1
        return self
    def keep(self, x):
        self.items.append(x)
        del self.items[:-4]
        return self.items
    @property
    def double(self):
        return self.best * 2

class Slotted:
    __slots__ = ("x", "y")
    def __init__(self, x):
        self.x, self.y = x, [x]

def note(x):
    STATE["seen"].append(x)
    del STATE["seen"][:-3]
    STATE["count"] += 1
    return STATE["count"]

def fill(out, x):
    out.append(x)
    del out[:-5]

def scale(a, by):
    a *= by
    return a

def fresh(a):
    return a.copy()

def counter(start):
    n, calls = start, []
    def count(by=1):
        nonlocal n
        n += by
        calls.append(n)
        del calls[:-2]
        return n
    return count

def show(*things):
    met = []
    def walk(x, depth=0):
        if x is None or type(x) in (bool, int, float, str):
            return repr(x)
        if isinstance(x, np.generic):
            return repr(float(x))
        for number, other in enumerate(met):
            if other is x:
                return f"#{number}"
        if depth > 12:
            return "..."
        if type(x) is tuple:
            return ["tuple", *[walk(i, depth + 1) for i in x]]
        met.append(x)
        if type(x) in (list, collections.deque):
            return [type(x).__name__, *[walk(i, depth + 1) for i in x]]
        if type(x) in (set, frozenset):
            return ["set", *sorted(map(repr, x))]
        if isinstance(x, dict):
            return {str(k): walk(v, depth + 1) for k, v in x.items()}
        if type(x) is np.ndarray:
            base = None if x.base is None else walk(x.base, depth + 1)
            return [str(x.dtype), list(x.shape), [repr(float(i)) for i in np.ravel(x)], base]
        if type(x) is Thing:
            return {"Thing": walk(vars(x), depth + 1)}
        if type(x) is Slotted:
            return {"Slotted": [walk(x.x, depth + 1), walk(x.y, depth + 1)]}
        if isinstance(x, random.Random):
            return ["Random", sum(x.getstate()[1]) % 1000003]
        if isinstance(x, np.random.Generator):
            return ["Generator", str(x.bit_generator.state["state"])]
        if callable(x) and hasattr(x, "__closure__"):
            return ["function", *[walk(c.cell_contents, depth + 1) for c in x.__closure__ or ()],
                    *[walk(i, depth + 1) for i in x.__defaults__ or ()]]
        return type(x).__name__
    return json.dumps([walk(x) for x in things])
"""

KINDS = {
    "L": "[1.0, 2.0]", "D": "{'a': 1.0}", "O": "Thing(1.0)", "A": "np.arange(3.0)", "N": "0.5", "R": "random.Random(3)",
    "G": "np.random.default_rng(3)", "F": "counter(2)", "S": "{1, 2}", "Q": "collections.deque([0.0], maxlen=3)",
    "T": "[]", "W": "Slotted(1.0)",
}  # fmt: skip
NAMES = [kind + number for kind in KINDS for number in "01"]

# {L} is a name of the kind, {l} another value of it; {n} a number, {x} anything.
VALUES: dict[str, list[str]] = {
    "L": ["[{n}, {n}]", "{L}", "list({L})", "{L} + [{n}]", "{O}.items", "[*map(float, {A}[:2])]", "{D}.setdefault('l', [0.0])", "{O}.keep({n})"],
    "D": ["dict({D})", "{{'a': {n}}}", "{D}", "{O}.table", "{{**{D}, 'k': {x}}}", "{{'a': {D}.get('a')}}"],
    "O": ["Thing({n})", "{O}", "copy.copy({O})", "{O}.child or {O}", "{O}.bump({n})", "copy.deepcopy({O})"],
    "A": [
        "np.arange(float(1 + (epoch * 2 + step) % 5))", "np.full(2 + step % 3, float(step))", "{A}", "{A}[:2]", "{A}[::-1]", "{A}.copy()",
        "np.append({A}[:5], {n})", "{A} * 0.5", "fresh({A})", "{O}.arr", "{A}.reshape(-1, 1)[:, 0]", "np.sort({A})", "{G}.normal(size=2)",
        "scale({A}, 0.5)", "np.asarray({L}[:4])", "{A}.astype(np.float32)", "np.zeros(3)",
    ],
    "N": ["{n}", "{N}", "max({N}, {n})", "{n} + 1.0"],
    "R": ["random.Random(step)", "{R}", "copy.copy({R})"],
    "G": ["np.random.default_rng(step)", "{G}"],
    "F": ["counter(step)", "{F}"],
    "S": ["set({S})", "{S} | {{step}}", "{S}", "{{epoch}}"],
    "Q": ["collections.deque({Q}, maxlen=3)", "{Q}"],
    "T": ["[{x}]", "{T}", "{T}[:1] + [{x}]", "[{x}, {x}]"],
    "W": ["Slotted({n})", "{W}"],
}  # fmt: skip
NUMBERS = [
    "1.5", "float(step)", "float(epoch)", "{N}", "float(len({L}))", "{R}.random()", "random.random()", "float(np.random.rand())",
    "float({G}.random())", "{O}.best", "{F}()", "float(len({S}))", "float({A}.sum()) % 7.0", "{O}.double", "float(note({n1}))", "{W}.x",
]  # fmt: skip
CHANGES = [
    "{L}.append({n}); del {L}[:-5]", "{L}.insert(0, {n}); del {L}[5:]", "{L}.reverse()", "{L}[:] = {L}[::-1]", "fill({L}, {n})",
    "{L}[:1] = [{n}]", "{D}['k' + str(step % 2)] = {x}", "{D}.pop('k0', None)", "{D}.update(a={n})", "{D}.clear()",
    "{O}.best = max({O}.best, {n})", "{O}.items = {L}", "{O}.keep({n})", "{O}.child = {O}", "{O}.arr = {A}", "{O}.table['x'] = {n}",
    "{O}.bump({n})", "{O}.extra = {n}", "vars({O}).pop('extra', None)", "Thing.count += 1", "Thing.shared.append({n}); del Thing.shared[:-3]",
    "{A}[:1] = {n}", "scale({A}, 0.5)", "{A}.sort()", "{A} += 1.0", "{T}.append({x}); del {T}[:-4]", "{T}[:1] = [{x}]", "{S}.add(step)",
    "{S}.discard(step)", "{Q}.append({n})", "{Q}.rotate()", "note({n})", "STATE['seen'] = {L}", "STATE['last'] = {x}", "{F}(2)",
    "{R}.seed(step)", "{W}.x = {n}", "{W}.y = {L}", "{W}.y.append({n}); del {W}.y[:-4]", "random.seed(step)",
    "{R}.shuffle({L})", "{T}.clear()", "{L}, {L} = {L}, {L}", "{A}, {A} = {A}, {A}", "{O}, {O} = {O}, {O}",
]  # fmt: skip


class Writer:
    """Writes one program.

    Args:
        seed: which one.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        chosen = self._random.sample(sorted(KINDS), self._random.randint(4, 7))
        # What the values of the chosen kinds are made from is there as well.
        self._names = [kind + number for kind in KINDS for number in "01"]
        self._favourites = set(chosen)

    def program(self) -> str:
        """The text; lines behind `#? ` are asked."""
        pick = self._random
        setting = "".join(f"{name} = {KINDS[name[0]]}\n" for name in self._names)
        holders = "".join(f"outer.append({pick.choice(self._names)})\n" for _ in range(pick.randint(0, 3)))
        seen = ", ".join([*self._names, "outer", "STATE", "Thing.count", "Thing.shared"])
        in_function = pick.random() < 0.5
        inner = self._inner(f"show({seen})") if pick.random() < 0.75 else self._helper(f"show({seen})")
        helper, inner = inner if isinstance(inner, tuple) else ("", inner)
        before = self._block(pick.randint(0, 2))
        after = self._block(pick.randint(0, 2))
        body = "step = 0\n" + before + inner + f'#? flor.log("ASKED", show({seen}))\n' + after
        loops = (
            f'for epoch in flor.loop("epoch", range(3)):\n{_in(body)}'
            f'    flor.log("size", len(L0))\n#? flor.log("ASKED_end", show({seen}))\n'
        )
        head = "import collections, copy, random\nimport numpy as np\nimport flor_dagster as flor\n"
        head += "from helpers import STATE, Slotted, Thing, counter, fill, fresh, note, scale, show\n\n"
        head += "random.seed(1)\nnp.random.seed(1)\nouter = []\n"
        if in_function:
            return f"{head}{helper}\ndef main():\n{_in(setting + holders + loops)}\nmain()\nflor.log('over', len(outer))\n"
        return f"{head}{setting}{holders}{helper}{loops}"

    def _inner(self, seen: str) -> str:
        pick = self._random
        body = self._block(pick.randint(2, 6))
        if pick.random() < 0.2:
            body += f"if step == {pick.randint(0, 2)}:\n    {pick.choice(['break', 'continue'])}\n"
        body += 'flor.log("was", step)\n'
        if pick.random() < 0.2:
            body = f'#? flor.log("ASKED_step", {seen}) if step == 1 else None\n' + body
        over = pick.choice(["range(3)", "range(3)", "[0, 1, 2]", "list(range(3))", "range(1 + epoch)"])
        text = f'for step in flor.loop("step", {over}):\n{_in(body)}'
        if pick.random() < 0.15:
            text += f"else:\n{_in(self._block(1))}"
        if pick.random() < 0.2:
            text += f'for step in flor.loop("again", range(2)):\n{_in(self._block(2))}    flor.log("was2", step)\n'
        return text

    def _helper(self, seen: str) -> tuple[str, str]:
        """The inner loop in a function of its own, which gets some of the names and gives some back."""
        pick = self._random
        given = pick.sample(self._names, 6)
        names, self._names = self._names, [n for n in self._names if n in given]
        kinds = {n[0] for n in self._names}
        lines = [self._statement(kinds) for _ in range(pick.randint(2, 5))]
        body = "".join(f"{line}\n" for line in lines) + 'flor.log("was", step)\n'
        back = pick.sample(given, 2)
        parameters = ", ".join(given)
        self._names = names
        text = f'for step in flor.loop("step", range(3)):\n{_in(body)}return {", ".join(back)}\n'
        del seen
        return (
            f"\ndef go(epoch, {parameters}):\n    step = 0\n{_in(text)}\n",
            f"{', '.join(back)} = go(epoch, {parameters})\n",
        )

    def _block(self, size: int) -> str:
        return "".join(f"{self._compound()}\n" for _ in range(size)) or "pass\n"

    def _compound(self) -> str:
        pick, plain = self._random.random(), self._statement()
        if pick < 0.1:
            return f"if step % 2:\n{_in(plain)}else:\n{_in(self._statement())}".rstrip()
        if pick < 0.15:
            return f"for _ in range(2):\n{_in(plain)}".rstrip()
        if pick < 0.2:
            return f"try:\n{_in(plain)}    raise ValueError\nexcept ValueError:\n{_in(self._statement())}".rstrip()
        return plain

    def _statement(self, kinds: set[str] | None = None) -> str:
        pick = self._random
        while True:
            if pick.random() < 0.5:
                name = pick.choice(self._names)
                if name[0] not in self._favourites and pick.random() < 0.7:
                    continue
                text = f"{name} = {pick.choice(VALUES[name[0]])}"
            else:
                text = pick.choice(CHANGES)
            made = self._filled(text, kinds)
            if made is not None:
                return made

    def _filled(self, text: str, kinds: set[str] | None, depth: int = 0) -> str | None:
        """With a name or a value at every mark; None where a kind is needed that is not there."""
        pick = self._random
        out = ""
        while (at := text.find("{")) >= 0:
            mark = text[at + 1]
            if mark == "{":
                out, text = out + text[: at + 1], text[at + 2 :]
                continue
            end = text.index("}", at)
            word = text[at + 1 : end]
            value: str | None
            if word == "n1" or (word == "n" and depth > 1):
                value = "1.0"
            elif word == "n":
                value = self._filled(pick.choice(NUMBERS), kinds, depth + 1)
            elif word == "x":
                value = pick.choice(self._names)
            else:
                there = [n for n in self._names if n[0] == word]
                value = pick.choice(there) if there else None
            if value is None:
                return None
            out, text = out + text[:at] + value, text[end + 1 :]
        return out + text.replace("}}", "}")


def _in(text: str) -> str:
    return textwrap.indent(text if text.endswith("\n") else text + "\n", "    ")


write: Callable[[int], str] = lambda seed: Writer(seed).program()  # noqa: E731
