"""The stress set: the old side of real cases is refactored by machine, and the true place moves with it."""

# ruff: noqa: E741, PTH123, SIM115

import ast
import builtins
import hashlib
import json
from collections import Counter

from reinsertion.scoring import MARK, blocks, find_mark

BUILTIN = set(dir(builtins))


def h(*a):
    return int(hashlib.sha1("|".join(map(str, a)).encode()).hexdigest(), 16)


FN, LOOP = (ast.FunctionDef, ast.AsyncFunctionDef), (ast.For, ast.While)


def marked(case):
    t = ast.parse(case["old"])
    node, b = t, None
    for _f, k, i in case["truth"]["path"]:
        b = list(blocks(node))[k][1]
        node = b[i] if i < len(b) else None
    i = case["truth"]["path"][-1][2]
    b.insert(i, ast.parse(f'flor.log("{MARK}", {case["truth"]["expr"]})').body[0])
    return t


def chain(t):
    """Owners above the marker statement, outermost first, with (owner, block, index)."""
    r = []

    def rec(o):
        for _f, b in blocks(o):
            for i, s in enumerate(b):
                if s is MK[0]:
                    r.append((o, b, i))
                    return True
                if rec(s):
                    r.append((o, b, i))
                    return True
        return None

    rec(t)
    return r[::-1]


MK = [None]


def rename(t, case):
    kw = {k.arg for x in ast.walk(t) if isinstance(x, ast.Call) for k in x.keywords} | {
        a.arg
        for x in ast.walk(t)
        if isinstance(x, ast.arguments)
        for a in x.args + x.kwonlyargs + x.posonlyargs
    }
    bad = (
        kw
        | BUILTIN
        | {
            (a.asname or a.name).split(".")[0]
            for x in ast.walk(t)
            if isinstance(x, (ast.Import, ast.ImportFrom))
            for a in x.names
        }
        | {n for x in ast.walk(t) if isinstance(x, (ast.Global, ast.Nonlocal)) for n in x.names}
        | {x.name for x in ast.walk(t) if isinstance(x, (*FN, ast.ClassDef))}
    )
    st = sorted(
        {x.id for x in ast.walk(t) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)} - bad,
        key=lambda v: h(case["id"], v),
    )
    first = [v for v in st if v in {x.id for x in ast.walk(MK[0]) if isinstance(x, ast.Name)}]
    pick = (first[:2] + [v for v in st if v not in first])[:6]
    if not first:
        return None
    allids = {x.id for x in ast.walk(t) if isinstance(x, ast.Name)}
    m = {}
    for v in pick:
        o = h(v, case["id"]) % 6
        n = ["cur_" + v, v + "_val", "my_" + v, v[0] + "_" + v[-1] + "v", "x" + v, v + "2"][o]
        if n not in allids:
            m[v] = n
    for x in ast.walk(t):
        if isinstance(x, ast.Name) and x.id in m:
            x.id = m[x.id]
    return t


def functions(t, case):
    ch = chain(t)
    fns = [o for o, _, _ in ch if isinstance(o, FN)]
    if not fns:
        keep, move = [], []
        for s in t.body:
            (keep if isinstance(s, (ast.Import, ast.ImportFrom, ast.ClassDef, *FN)) else move).append(s)
        main = ast.parse("def main():\n    pass").body[0]
        main.body = move
        t.body = [*keep, main, *ast.parse("if __name__ == '__main__':\n    main()").body]
        return t
    old = fns[0].name
    new = {"main": "run", "train": "train_one_epoch", "test": "evaluate"}.get(old, old + "_impl")
    for x in ast.walk(t):
        if isinstance(x, FN) and x.name == old:
            x.name = new
        elif isinstance(x, ast.Name) and x.id == old:
            x.id = new
        elif isinstance(x, ast.Attribute) and x.attr == old:
            x.attr = new
    for o in [t] + [x for x in ast.walk(t) if isinstance(x, ast.ClassDef)]:
        ix = [i for i, s in enumerate(o.body) if isinstance(s, FN)]
        for i, s in zip(ix, [o.body[i] for i in ix][::-1], strict=False):
            o.body[i] = s
    return t


def loops(t, case):
    ch = chain(t)
    lp = [o for o, _, _ in ch if isinstance(o, LOOP)]
    if not lp:
        return None
    for l in lp:
        if isinstance(l, ast.For):
            l.iter = ast.Call(func=ast.Name(id="tqdm", ctx=ast.Load()), args=[l.iter], keywords=[])
    l = lp[-1]
    w = ast.parse("with torch.profiler.record_function('step'):\n    pass").body[0]
    w.body = l.body
    l.body = [w]
    return t


def neighbours(t, case):
    _o, b, i = chain(t)[-1]
    free = {x.id for x in ast.walk(MK[0]) if isinstance(x, ast.Name)}

    def ok(s):
        return isinstance(s, (ast.Expr, ast.Assign, ast.AugAssign)) and not any(
            isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store) and x.id in free for x in ast.walk(s)
        )

    n = 0
    for j in (i + 1, i - 1):
        if 0 <= j < len(b) and len(b) > 2 and ok(b[j]):
            del b[j]
            n += 1
    return t if n else None


def noise(t, case):
    _o, b, i = chain(t)[-1]

    def s(k):
        return ast.parse(
            [
                "counter_total += 1",
                "timer.tick('phase')",
                "state_dict_hist.append(dict(kind=3))",
                "assert timer is not None",
                "memory_peak = max(memory_peak, usage())",
            ][h(case["id"], k) % 5]
        ).body[0]

    b.insert(i + 1, s(1))
    b.insert(i, s(2))
    b.insert(0, s(3))
    return t


def extract(t, case):
    ch = chain(t)
    for k in range(len(ch) - 1, -1, -1):
        if isinstance(ch[k][0], ast.For) and ch[k][1] is ch[k][0].body:
            break
    else:
        return None
    l = ch[k][0]
    if any(isinstance(o, FN) for o, _, _ in ch[k + 1 :]) or len(l.body) < 3:
        return None
    for s in l.body:
        for x in ast.walk(s):
            if isinstance(
                x, (ast.Break, ast.Continue, ast.Return, ast.Yield, ast.Await, ast.Global, ast.Nonlocal)
            ):
                return None
    names = {x.id for s in l.body for x in ast.walk(s) if isinstance(x, ast.Name)}
    outer = {x.id for x in ast.walk(t) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)} | {
        a.arg for x in ast.walk(t) if isinstance(x, ast.arguments) for a in x.args
    }
    glob = {x.name for x in ast.walk(t) if isinstance(x, (*FN, ast.ClassDef))} | {
        (a.asname or a.name).split(".")[0]
        for x in ast.walk(t)
        if isinstance(x, (ast.Import, ast.ImportFrom))
        for a in x.names
    }
    inner = {
        x.id for s in l.body for x in ast.walk(s) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)
    }
    ps = sorted((names & outer) - glob - BUILTIN - {v for v in inner if first_is_store(l.body, v)})
    f = ast.parse(f"def run_step({', '.join(ps)}):\n    pass").body[0]
    f.body = l.body
    l.body = ast.parse(f"run_step({', '.join(ps)})").body
    j = next(
        (
            i
            for i, s in enumerate(t.body)
            if isinstance(s, (*FN, ast.ClassDef)) or not isinstance(s, (ast.Import, ast.ImportFrom, ast.Expr))
        ),
        0,
    )
    t.body.insert(j, f)
    return t


def first_is_store(body, v):
    for s in body:
        for x in ast.walk(s):
            if isinstance(x, ast.Name) and x.id == v:
                ld = any(
                    isinstance(y, ast.Name) and y.id == v and isinstance(y.ctx, ast.Load) for y in ast.walk(s)
                )
                return not ld
    return False


def alls(t, case):
    for f in (rename, loops, functions, noise):
        t = f(t, case) or t
    return t


T = {
    "reformat": lambda t, c: t,
    "rename": rename,
    "functions": functions,
    "loops": loops,
    "neighbours": neighbours,
    "noise": noise,
    "extract": extract,
    "all": alls,
}


def write(src, dst, limit=240, log=print):
    """Refactor the old sides of the cases in `src`, `limit` in all, and write them to `dst`."""
    cases = [c for c in map(json.loads, open(src)) if c["family"] != "refuse"]
    cases.sort(key=lambda c: h("stress", c["id"]))
    out, n = [], Counter()
    per = limit // len(T)
    for c in cases:
        for name in sorted(T, key=lambda k: (n[k], h(c["id"], k)))[:2]:
            if n[name] >= per:
                continue
            t = marked(c)
            MK[0] = find_mark(t)[0][3]
            t = T[name](t, c)
            if t is None:
                continue
            ast.fix_missing_locations(t)
            t = ast.parse(ast.unparse(t))
            path, b, i, s = find_mark(t)[0]
            expr = ast.unparse(s.value.args[1])
            del b[i]
            if not b:
                continue
            old = ast.unparse(t) + "\n"
            n[name] += 1
            out.append(
                dict(
                    c,
                    id=c["id"] + "-" + name,
                    family="stress",
                    identity=name,
                    old=old,
                    truth={"path": path, "expr": expr},
                    renamed=expr != c["truth"]["expr"],
                    chain=[],
                )
            )
    with open(dst, "w") as f:
        for c in out:
            f.write(json.dumps(c, sort_keys=True) + "\n")
    log(f"{dst}: {len(out)} {dict(n)}")
