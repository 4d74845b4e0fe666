"""Choose cases from a pair of versions: statements whose place both know, and statements that have none."""

# ruff: noqa: E741, N803, SIM102

import ast
import difflib
from collections import defaultdict

from reinsertion.versions import BUILTIN, METRIC, blocks, header, in_scope, loads, own_lines, qual, shape


def insert_cases(N, O, get_lm):
    """Yield (itN, itO, exprN, exprO, family, idkind)."""
    oc = {id(it.node): (it, e, k, t) for it, e, k, t in O.cand}
    for it, e, k, t in N.cand:
        if len(it.block) < 2 or len(t) < 12:
            continue
        if len(N.by_txt[t]) == 1 and len(O.by_txt.get(t, ())) == 1:
            o = O.by_txt[t][0]
            if id(o.node) in oc and len(o.block) >= 2:
                yield it, o, e, oc[id(o.node)][1], "del", "text"
        elif (
            len(N.by_txt[t]) == 1
            and sum(map(len, k[1])) >= 6
            and len(N.by_key[k]) == 1
            and len(O.by_key.get(k, ())) == 1
        ):
            o = O.by_key[k][0]
            if len(o.block) >= 2 and shape(it.node) == shape(o.node):
                yield it, o, e, oc[id(o.node)][1], "del", "renamed"
        elif len(N.by_txt[t]) <= 6 and 1 <= len(O.by_txt.get(t, ())) <= 6:
            # duplicated text: identity by the composed line history
            lm = get_lm()
            j = lm.get(it.node.lineno)
            for o in O.by_txt[t]:
                if o.node.lineno == j and id(o.node) in oc and len(o.block) >= 2:
                    yield it, o, e, e, "del", "blame"

    # metric assignments: hindsight statement added right after the definition
    def assigns(v):
        d = defaultdict(list)
        for it in v.st:
            n = it.node
            if (
                isinstance(n, ast.Assign)
                and len(n.targets) == 1
                and isinstance(n.targets[0], ast.Name)
                and METRIC.search(n.targets[0].id)
                and in_scope(it)
                and own_lines(n, v.lines)
            ):
                d[(qual(it), n.targets[0].id)].append(it)
        return d

    da, db = assigns(N), assigns(O)
    for k, l in da.items():
        if len(l) != 1 or len(db.get(k, ())) != 1:
            continue
        a, b = l[0], db[k][0]
        ta, tb = N.txt[id(a.node)], O.txt[id(b.node)]
        if isinstance(a.node.value, ast.Constant):
            continue
        if ta == tb or difflib.SequenceMatcher(None, ta, tb).ratio() >= 0.6:
            yield a, b, k[1], k[1], "syn", "text" if ta == tb else "changed"


def refuse_cases(N, O):
    defs = defaultdict(list)
    for it in N.st:
        n = it.node
        for x in ast.walk(n):
            if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store):
                if not any(True for _ in blocks(n)) or (isinstance(n, (ast.For, ast.With))):
                    defs[x.id].append(n)
    imported = {
        (a.asname or a.name).split(".")[0]
        for x in ast.walk(N.tree)
        if isinstance(x, (ast.Import, ast.ImportFrom))
        for a in x.names
    }
    oshape = None
    for it, e, k, t in N.cand:
        if len(t) < 12 or t in O.by_txt or (k in O.by_key and sum(map(len, k[1])) >= 4):
            continue

        def overlap(owner):
            sub = [
                N.txt[id(s.node)]
                for s in N.st
                if any(n is owner for n, _ in s.chain)
                and len(N.txt[id(s.node)]) > 8
                and not isinstance(s.node, (ast.Return, ast.Pass, ast.Continue, ast.Break))
            ]
            return (sum(x in O.alltext for x in sub) / len(sub) if sub else 1), len(sub)

        fn = [n for n, _ in it.chain if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        lp = [n for n, _ in it.chain if isinstance(n, (ast.For, ast.While, ast.AsyncFor))]
        ev = ast.parse(e, mode="eval")
        if fn and fn[0].name not in O.words:
            r, n = overlap(fn[0])
            if n >= 3 and r <= 0.05:
                yield it, e, "function-absent"
                continue
        if (
            lp
            and header(lp[-1]) not in O.alltext
            and not (fn and lp[-1] in list(ast.walk(fn[-1])) and fn[-1].name not in O.words)
        ):
            r, n = overlap(lp[-1])
            if n >= 2 and r <= 0.05:
                yield it, e, "loop-absent"
                continue
        bound = {x.id for x in ast.walk(ev) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
        fv = loads(ev) - BUILTIN - bound - imported
        miss = [v for v in fv if v not in O.words]
        if miss:
            if oshape is None:
                oshape = [O.txt[id(s.node)] for s in O.st]
            v = min(miss)
            ds = [ast.unparse(d.value) for d in defs.get(v, []) if isinstance(d, (ast.Assign, ast.AugAssign))]
            if not ds:
                continue
            if all(isinstance(d, (ast.Assign, ast.AugAssign)) for d in defs[v]) and all(
                len(x) >= 8 for x in ds
            ):
                best = 0
                for x in ds:
                    for y in oshape:
                        y = y.split(" = ", 1)[-1]
                        if abs(len(x) - len(y)) > max(len(x), len(y)) * 0.6:
                            continue
                        best = max(best, difflib.SequenceMatcher(None, x, y, autojunk=False).ratio())
                        if best >= 0.6:
                            break
                    if best >= 0.6:
                        break
                if best < 0.6:
                    yield it, e, "variable-absent"
