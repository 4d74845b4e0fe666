"""What a statement reads is there under the old version's name, travels along, or is named as missing."""

from __future__ import annotations

import textwrap

import pytest

from flor_dagster.propagation import Propagated, find_statements, propagate


def ask(new: str, old: str) -> Propagated:
    new, old = textwrap.dedent(new).lstrip("\n"), textwrap.dedent(old).lstrip("\n")
    lines = [s.lines[0] for s in find_statements(new) if s.name == "Q"]
    return propagate(new, old, lines)


def added(result: Propagated) -> list[str]:
    lines = result.source.splitlines()
    return [lines[n - 1].strip() for n in result.added]


# (promise, new version, old version, added lines)
PLACED = [
    (
        "an import inside the function",
        "def f(a):\n    import numpy as np\n    b = g(a)\n    flor.log('Q', np.mean(b))\n    return b\n",
        "def f(a):\n    b = g(a)\n    return b\n",
        ["import numpy as np", "flor.log('Q', np.mean(b))"],
    ),
    (
        "one name of an import",
        "from math import exp, log1p\nx = g(1)\nflor.log('Q', log1p(x))\nuse(x)\n",
        "x = g(1)\nuse(x)\n",
        ["from math import log1p", "flor.log('Q', log1p(x))"],
    ),
    (
        "an import under another name",
        "import numpy as np\nx = g(1)\nflor.log('Q', np.mean(x))\nuse(x)\n",
        "import numpy\nx = g(1)\nuse(x)\n",
        ["flor.log('Q', numpy.mean(x))"],
    ),
    (
        "an import with a fallback",
        "try:\n    import ujson as json\nexcept ImportError:\n    import json\nx = g(1)\nflor.log('Q', json.dumps(x))\nuse(x)\n",
        "x = g(1)\nuse(x)\n",
        ["try:", "import ujson as json", "except ImportError:", "import json", "flor.log('Q', json.dumps(x))"],
    ),
    (
        "helpers of helpers and their constant",
        "import math\nSCALE = 3\ndef half(v):\n    return math.sqrt(v) / SCALE\ndef quarter(v):\n    return half(v) / 2\nx = g(1)\nflor.log('Q', quarter(x))\nuse(x)\n",
        "x = g(1)\nuse(x)\n",
        ["import math", "SCALE = 3", "def half(v):", "return math.sqrt(v) / SCALE", "def quarter(v):", "return half(v) / 2", "flor.log('Q', quarter(x))"],
    ),
    (
        "a name of the only star import",
        "from tools import *\nx = g(1)\nflor.log('Q', spread(x))\nuse(x)\n",
        "x = g(1)\nuse(x)\n",
        ["from tools import spread", "flor.log('Q', spread(x))"],
    ),
    (
        "a name of a star import that both have",
        "from tools import *\nx = g(1)\nflor.log('Q', spread(x))\nuse(x)\n",
        "from tools import *\nx = g(1)\nuse(x)\n",
        ["flor.log('Q', spread(x))"],
    ),
    (
        "a name that `exec` brings, where the old version counts on it, too",
        "exec(open('configurator.py').read())\nprint(injected)\nx = g(1)\nflor.log('Q', injected)\nuse(x)\n",
        "exec(open('configurator.py').read())\nprint(injected)\nx = g(1)\nuse(x)\n",
        ["flor.log('Q', injected)"],
    ),
    (
        "a global",
        "def go(a):\n    global total\n    total = total + a\n    flor.log('Q', total)\n    use(a)\ntotal = 0\n",
        "def go(a):\n    global total\n    total = total + a\n    use(a)\ntotal = 0\n",
        ["flor.log('Q', total)"],
    ),
    (
        "the name of a handler's exception",
        "try:\n    x = g(1)\nexcept ValueError as error:\n    note(error)\n    flor.log('Q', str(error))\n",
        "try:\n    x = g(1)\nexcept ValueError as e:\n    note(e)\n",
        ["flor.log('Q', str(e))"],
    ),
    (
        "names that a case captures",
        "def go(v):\n    match v:\n        case [first, *others]:\n            keep(first)\n            flor.log('Q', first + len(others))\n        case _:\n            drop(v)\n",
        "def go(v):\n    match v:\n        case [head, *tail]:\n            keep(head)\n        case _:\n            drop(v)\n",
        ["flor.log('Q', head + len(tail))"],
    ),
    (
        "an assignment expression",
        "while (batch := pull()) is not None:\n    loss = fit(batch)\n    flor.log('Q', len(batch))\n    use(loss)\n",
        "while (chunk := pull()) is not None:\n    loss = fit(chunk)\n    use(loss)\n",
        ["flor.log('Q', len(chunk))"],
    ),
    (
        "the variable of a comprehension is its own",
        "xs = g(1)\nys = h(xs)\nflor.log('Q', [x for x in ys])\nuse(ys)\n",
        "xs = g(1)\nys = h(xs)\nx = 3\nuse(ys)\n",
        ["flor.log('Q', [x for x in ys])"],
    ),
    (
        "names that a placed loop binds never hide the old version's",
        "for i in rounds():\n    net = fit(i)\n    for n, p in net.named_parameters():\n        flor.log('Q', {n: p.mean()})\n    use(net)\n",
        "n = 3\nfor i in rounds():\n    net = fit(i)\n    use(net)\nuse(n)\n",
        ["for n_logged, p in net.named_parameters():", "flor.log('Q', {n_logged: p.mean()})"],
    ),
    (
        "names follow the function that they are in, not the majority of the file",
        "def one(a):\n    err = f(a)\n    use(err)\n    flor.log('Q', err)\n    return err\ndef two(a):\n    loss = f(a)\n    use(loss)\n    return loss\ndef three(a):\n    loss = f(a)\n    return loss\n",
        "def one(a):\n    loss = f(a)\n    use(loss)\n    return loss\ndef two(a):\n    err = f(a)\n    use(err)\n    return err\ndef three(a):\n    err = f(a)\n    return err\n",
        ["flor.log('Q', loss)"],
    ),
    (
        "the order of a tuple that is unpacked",
        "for i in rounds():\n    loss, acc = fit(i)\n    flor.log('Q', acc)\n    use(loss, acc)\n",
        "for i in rounds():\n    a, b = fit(i)\n    use(a, b)\n",
        ["flor.log('Q', b)"],
    ),
    (
        "swapped names",
        "for i in rounds():\n    loss, acc = fit(i)\n    flor.log('Q', acc)\n    use(loss, acc)\n    show(acc)\n",
        "for i in rounds():\n    acc, loss = fit(i)\n    use(acc, loss)\n    show(loss)\n",
        ["flor.log('Q', loss)"],
    ),
    (
        "parameters",
        "def fit(model, batch):\n    out = model(batch)\n    flor.log('Q', batch.shape)\n    return out\n",
        "def fit(net, data):\n    out = net(data)\n    return out\n",
        ["flor.log('Q', data.shape)"],
    ),
    (
        "keyword names stay",
        "def fit(model, batch):\n    out = model(batch)\n    flor.log('Q', dict(batch=batch))\n    return out\n",
        "def fit(net, data):\n    out = net(data)\n    return out\n",
        ["flor.log('Q', dict(batch=data))"],
    ),
    (
        "attributes of self",
        "class T:\n    def __init__(self):\n        self.optimizer = make()\n    def go(self, x):\n        self.optimizer.clear(x)\n        flor.log('Q', self.optimizer.state)\n        return x\n",
        "class T:\n    def __init__(self):\n        self.opt = make()\n    def go(self, x):\n        self.opt.clear(x)\n        return x\n",
        ["flor.log('Q', self.opt.state)"],
    ),
    (
        "settings that moved to another object",
        "args = parse()\nnet = build(args.width)\nflor.log('Q', args.width)\nfit(net)\n",
        "cfg = parse()\nnet = build(cfg.model.width)\nfit(net)\n",
        ["flor.log('Q', cfg.model.width)"],
    ),
    (
        "a nested function's own and enclosing names",
        "def outer(a):\n    scale = f(a)\n    def inner(b):\n        c = b * scale\n        flor.log('Q', c / scale)\n        return c\n    return inner\n",
        "def outer(a):\n    factor = f(a)\n    def inner(b):\n        c = b * factor\n        return c\n    return inner\n",
        ["flor.log('Q', c / factor)"],
    ),
]  # fmt: skip

# (promise, kind, missing, new version, old version)
REFUSED = [
    ("a name that nothing defines", "no-variable", "missing_thing", "x = g(1)\nuse(x)\nflor.log('Q', missing_thing)\nend(x)\n", "x = g(1)\nuse(x)\nend(x)\n"),
    ("a function that nothing defines", "no-variable", "score", "x = g(1)\nuse(x)\nflor.log('Q', score(x))\nend(x)\n", "x = g(1)\nuse(x)\nend(x)\n"),
    ("a builtin that the old version shadows", "other-definition", "max", "x = g(1)\nflor.log('Q', max(x))\nuse(x)\n", "max = g(1)\nx = g(1)\nuse(x)\n"),
    ("a builtin that the old function shadows", "other-definition", "sum", "def f(x):\n    y = g(x)\n    flor.log('Q', sum(y))\n    return y\n", "def f(x):\n    sum = 0\n    y = g(x)\n    return y\n"),
    ("a builtin behind a star import", "other-definition", "sum", "x = g(1)\nflor.log('Q', sum(x))\nuse(x)\n", "from numpy import *\nx = g(1)\nuse(x)\n"),
    ("a variable that is a builtin's name", "no-variable", "input", "input = 3\nx = g(input)\nflor.log('Q', input)\nuse(x)\n", "x = g(3)\nuse(x)\n"),
    ("a variable where the old version has a function", "other-definition", "loss", "x = g(1)\nloss = x * 2\nflor.log('Q', loss)\nuse(x)\n", "def loss(y):\n    return y\nx = g(1)\nuse(x)\n"),
    ("a module where the old version has a variable", "other-definition", "np", "import numpy as np\nx = g(1)\nflor.log('Q', np.mean(x))\nuse(x)\n", "np = 3\nx = g(np)\nuse(x)\n"),
    ("a helper whose name is taken", "other-definition", "half", "def half(v):\n    return v / 2\nx = g(1)\nflor.log('Q', half(x))\nuse(x)\n", "half = 3\nx = g(half)\nuse(x)\n"),
    ("a helper that changes what it is given", "no-variable", "shrink", "def shrink(v):\n    v.append(1)\n    return v\nx = g(1)\nflor.log('Q', shrink(x))\nuse(x)\n", "x = g(1)\nuse(x)\n"),
    ("a helper that needs what is not there", "no-variable", "half", "def half(v):\n    return v / divisor\ndivisor = read()\nx = g(divisor)\nflor.log('Q', half(x))\nuse(x)\n", "x = g(2)\nuse(x)\n"),
    ("a deleted name", "no-variable", "x", "x = g(1)\nkeep(x)\ny = h(2)\nflor.log('Q', x + y)\nuse(y)\n", "x = g(1)\nkeep(x)\ndel x\ny = h(2)\nuse(y)\n"),
    ("an exception's name after its handler", "no-variable", "e", "e = None\ntry:\n    x = g(1)\nexcept ValueError:\n    x = 0\nflor.log('Q', e)\nuse(x)\n", "try:\n    x = g(1)\nexcept ValueError as e:\n    x = 0\nuse(x)\n"),
    ("a comprehension's variable", "no-variable", "v", "v = g(1)\nxs = h(v)\nflor.log('Q', v)\nuse(xs)\n", "xs = [v for v in range(3)]\nuse(xs)\n"),
    ("a class's name inside its methods", "no-variable", "width", "width = read()\nclass C:\n    def f(self, a):\n        b = g(a)\n        flor.log('Q', width)\n        return b\n", "class C:\n    width = 3\n    def f(self, a):\n        b = g(a)\n        return b\n"),
    ("another definition of the same name", "other-definition", "x", "x = first(1)\nkeep(x)\nflor.log('Q', x)\nx = second(2)\nuse(x)\n", "x = second(2)\nuse(x)\n"),
    ("a name of two star imports", "no-variable", "spread", "from tools import *\nfrom others import *\nx = g(1)\nflor.log('Q', spread(x))\nuse(x)\n", "x = g(1)\nuse(x)\n"),
    ("a conditional import", "no-variable", "fast", "if quick:\n    import fast\nelse:\n    import slow as fast\nx = g(1)\nflor.log('Q', fast.mean(x))\nuse(x)\n", "x = g(1)\nuse(x)\n"),
    ("a placed block that adds to a name of the old version", "changes-training", "", "for i in rounds():\n    x = fit(i)\n    if x:\n        total += 1\n        flor.log('Q', total)\n    use(x)\n", "total = 0\nfor i in rounds():\n    x = fit(i)\n    use(x)\nuse(total)\n"),
]  # fmt: skip


@pytest.mark.parametrize(("promise", "new", "old", "lines"), PLACED, ids=[p[0] for p in PLACED])
def test_what_a_statement_needs_is_there_or_travels(
    promise: str, new: str, old: str, lines: list[str]
) -> None:
    head = "import flor_dagster as flor\n"
    result = ask(head + new, head + old)
    assert [r.sentence for r in result.refusals] == []
    assert added(result) == lines
    compile(result.source, "result", "exec")


@pytest.mark.parametrize(("promise", "kind", "missing", "new", "old"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_is_not_there_is_named(promise: str, kind: str, missing: str, new: str, old: str) -> None:
    head = "import flor_dagster as flor\n"
    new, old = head + new, head + old
    lines = [s.lines[0] for s in find_statements(new) if s.name == "Q"]
    if "total += 1" in new:
        lines.append(lines[0] - 1)
    result = propagate(new, old, lines)
    assert result.source == old
    (refusal,) = result.refusals
    assert (refusal.kind, refusal.missing) == (kind, missing)
    assert missing in refusal.sentence
