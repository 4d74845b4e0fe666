"""Score answers: exact, near, in another order, in another block or loop, missed, crashed."""

import ast
import collections
import re

MARK = "__hs__"
MODULES = ("flor", "flordb", "flor_dagster")


def blocks(node):
    for f in ("body", "orelse", "finalbody"):
        b = getattr(node, f, None)
        if isinstance(b, list) and (b and isinstance(b[0], ast.stmt)):
            yield f, b
    for h in getattr(node, "handlers", []) or []:
        yield "handler", h.body
    for c in getattr(node, "cases", []) or []:
        yield "case", c.body


def is_mark(n):
    return (
        isinstance(n, ast.Expr)
        and isinstance(n.value, ast.Call)
        and n.value.args
        and isinstance(n.value.args[0], ast.Constant)
        and n.value.args[0].value == MARK
    )


def find_mark(tree):
    """[(path, block, index, node)] of every marker statement."""
    out = []

    def rec(owner, path):
        for k, (f, b) in enumerate(blocks(owner)):
            for i, s in enumerate(b):
                here = [*path, [f, k, i]]
                if is_mark(s):
                    out.append((here, b, i, s))
                rec(s, here)

    rec(tree, [])
    return out


def walk_path(tree, path):
    """Owners of a path, and the last block."""
    node, owners, b = tree, [], None
    for f, k, i in path:
        owners.append((node, f))
        b = list(blocks(node))[k][1]
        node = b[i] if i < len(b) else None
        if node is None:
            break
    return owners, b


LOOP, FN = (
    (ast.For, ast.While, ast.AsyncFor),
    (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
)


def loopfn(owners):
    return [id(n) for n, _ in owners if isinstance(n, LOOP + FN)]


PURE = {
    "backward",
    "item",
    "size",
    "eval",
    "cpu",
    "detach",
    "mean",
    "sum",
    "numpy",
    "keys",
    "values",
    "items",
    "format",
    "tolist",
    "get",
    "info",
    "print",
}


def kills(s, free, expr):
    """Could moving the log statement over s change what it logs or how often it runs?"""
    sens = re.search(r"model|net|param|grad|\blr\b|sched|optim|policy|critic|actor", expr)
    for x, in_loop in own_nodes(s, False):
        if isinstance(x, (ast.Return, ast.Raise, ast.Yield, ast.YieldFrom)):
            return True
        if isinstance(x, (ast.Break, ast.Continue)) and not in_loop:
            return True
        if isinstance(x, FN[:3]) and x.name in free:
            return True
        if isinstance(x, ast.Name) and isinstance(x.ctx, (ast.Store, ast.Del)) and x.id in free:
            return True
        if isinstance(x, (ast.Attribute, ast.Subscript)) and isinstance(x.ctx, (ast.Store, ast.Del)):
            y = x
            while isinstance(y, (ast.Attribute, ast.Subscript)):
                y = y.value
            if (
                isinstance(y, ast.Name)
                and y.id in free
                and (y.id != "self" or not isinstance(x, ast.Attribute) or "self." + x.attr in expr)
            ):
                return True
        if isinstance(x, ast.Call) and isinstance(x.func, ast.Attribute):
            if x.func.attr in ("step", "zero_grad") and sens:
                return True
            y = x.func.value
            if isinstance(y, ast.Name) and y.id in free and y.id != "self" and x.func.attr not in PURE:
                return True
    return False


def own_nodes(s, in_loop):
    """Nodes that run when s runs: the bodies of nested functions, classes and lambdas are left out."""
    yield s, in_loop
    if isinstance(s, FN):
        return
    for c in ast.iter_child_nodes(s):
        yield from own_nodes(c, in_loop or isinstance(s, LOOP))


def drop_import(tree, old):
    """Take out an added top-level `import flor`."""
    have = sum(isinstance(s, ast.Import) and any(a.name == "flor" for a in s.names) for s in old.body)
    got = [s for s in tree.body if isinstance(s, ast.Import) and any(a.name in MODULES for a in s.names)]
    if len(got) > have:
        tree.body.remove(got[0])


def score(case, out):
    """(outcome, expr_ok, note)"""
    try:
        t, o = ast.parse(out), ast.parse(case["old"])
    except SyntaxError as e:
        return "crash", False, f"output does not parse: {e}"
    drop_import(t, o)
    m = find_mark(t)
    if not m:
        return "crash", False, "no statement in the output"
    if len(m) > 1:
        return "wrong_loop", False, "inserted more than once"
    path, b, i, st = m[0]
    expr = ast.unparse(st.value.args[1]) if len(st.value.args) > 1 else ""
    del b[i]
    if ast.dump(t) != ast.dump(o):
        return "crash", False, "other code changed"
    if case["truth"] is None:
        return "inserted", False, expr
    tp, te = case["truth"]["path"], case["truth"]["expr"]
    ok = ast.dump(ast.parse(te)) == ast.dump(ast.parse(expr))
    if path == tp:
        return "exact", ok, expr
    ow_t, bt = walk_path(o, tp)
    ow, bb = walk_path(o, path)
    if bt is not None and bt is bb and tp[:-1] == path[:-1] and tp[-1][:2] == path[-1][:2]:
        free = {x.id for x in ast.walk(ast.parse(te)) if isinstance(x, ast.Name)}
        lo, hi = sorted((tp[-1][2], path[-1][2]))
        if (
            "time.time()" not in te
            and "perf_counter" not in te
            and not any(kills(s, free, te) for s in bt[lo:hi])
        ):
            return "near", ok, expr
        return "order", ok, expr
    return ("wrong_block" if loopfn(ow_t) == loopfn(ow) else "wrong_loop"), ok, expr


COLS = ("exact", "near", "order", "wrong_block", "wrong_loop", "missed", "crash", "timeout")


def table(rows, title):
    ins = [r for r in rows if r["family"] != "refuse"]
    ref = [r for r in rows if r["family"] == "refuse"]
    print(f"\n## {title}")
    print(
        f"{'group':26s}{'n':>5s} "
        + "".join(f"{c:>12s}" for c in COLS)
        + f"{'ok+names':>10s}{'placed-ok':>10s}"
    )

    def line(lbl, g):
        if not g:
            return
        c = collections.Counter(r["outcome"] for r in g)
        n = len(g)
        okn = sum(r["outcome"] in ("exact", "near") and r["expr_ok"] for r in g)
        placed = sum(c[x] for x in COLS[:5])
        good = c["exact"] + c["near"]
        print(
            f"{lbl:26s}{n:5d} "
            + "".join(f"{100 * c[x] / n:11.1f}%" for x in COLS)
            + f"{100 * okn / n:9.1f}%{(100 * good / placed if placed else 0):9.1f}%"
        )

    line("ALL", ins)
    for f in ("distance", "difficulty", "family", "identity", "renamed", "repo"):
        for v in sorted({r[f] for r in ins}, key=str):
            line(f"{f}={v}", [r for r in ins if r[f] == v])
    if ref:
        n = len(ref)
        refused = sum(r["outcome"] == "missed" for r in ref)
        missed = sum(r["outcome"] == "missed" for r in ins)
        print(
            f"refuse set: n={n} refused={100 * refused / n:.1f}% inserted={100 * sum(r['outcome'] == 'inserted' for r in ref) / n:.1f}% other={100 * sum(r['outcome'] in ('crash', 'timeout') for r in ref) / n:.1f}%"
            f"  refusal precision={100 * refused / max(1, refused + missed):.1f}%"
        )
        for v in sorted({r["identity"] for r in ref}):
            g = [r for r in ref if r["identity"] == v]
            print(
                f"   {v:20s} n={len(g):4d} refused={100 * sum(r['outcome'] == 'missed' for r in g) / len(g):.1f}%"
            )
    ms = sorted(r["ms"] for r in rows)
    print(
        f"ms per propagation: median {ms[len(ms) // 2]:.0f}  p90 {ms[int(len(ms) * 0.9)]:.0f}  max {ms[-1]:.0f}"
    )
