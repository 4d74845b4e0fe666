"""One version of a script as the benchmark sees it: its statements, where they stand, which of them log."""

# ruff: noqa: E741, SIM113

import ast
import builtins
import copy
import difflib
import re
from collections import defaultdict

DISTANCES = (1, 3, 10, 30, 100)
MARK = "__hs__"
LOG_TAILS = {
    "print",
    "info",
    "warning",
    "debug",
    "log",
    "log_metric",
    "log_metrics",
    "add_scalar",
    "add_scalars",
    "add_image",
    "add_histogram",
    "logkv",
    "logkv_mean",
    "record",
    "record_tabular",
    "record_mean",
    "write",
    "set_description",
    "set_postfix",
    "update",
    "append",
    "print0",
    "print_log",
    "log_value",
    "tb_log",
    "add_figure",
    "log_scalar",
    "printr",
    "scalar",
    "end",
    "tb_update",
    "log_stat",
    "master_print",
    "print_rank0",
}
METRIC = re.compile(
    r"loss|acc|metric|grad|(^|_)lr|norm|dt$|reward|return|score|ppl|bpb|mfu|recall|prec|psnr|kl|entropy|tok|time|mean|std|top1|top5|map"
)
BUILTIN = set(dir(builtins))


BLOCKS = ("body", "orelse", "finalbody")


def blocks(node):
    for f in BLOCKS:
        b = getattr(node, f, None)
        if isinstance(b, list) and b and isinstance(b[0], ast.stmt):
            yield f, b
    for h in getattr(node, "handlers", []) or []:
        yield "handler", h.body
    for c in getattr(node, "cases", []) or []:
        yield "case", c.body


class Info:
    __slots__ = ["block", "chain", "field", "idx", "node", "parent"]


def index(tree):
    """All statements with parent, block and ancestor chain, in source order."""
    out = []

    def rec(owner, chain):
        for f, b in blocks(owner):
            for i, s in enumerate(b):
                it = Info()
                it.node, it.parent, it.field, it.block, it.idx = s, owner, f, b, i
                it.chain = [*chain, (owner, f)]
                out.append(it)
                rec(s, [*chain, (owner, f)])

    rec(tree, [])
    return out


def header(n):
    if isinstance(n, ast.Module):
        return "module"
    if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return "def " + n.name
    if isinstance(n, ast.ClassDef):
        return "class " + n.name
    if isinstance(n, (ast.For, ast.AsyncFor)):
        return f"for {ast.unparse(n.target)} in {ast.unparse(n.iter)}"
    if isinstance(n, ast.While):
        return "while " + ast.unparse(n.test)
    if isinstance(n, ast.If):
        return "if " + ast.unparse(n.test)
    if isinstance(n, (ast.With, ast.AsyncWith)):
        return "with " + ", ".join(map(ast.unparse, n.items))
    return type(n).__name__


def tail(f):
    return f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else ""


def loads(n):
    return {x.id for x in ast.walk(n) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load)}


def shape(n):
    n = copy.deepcopy(n)
    for x in ast.walk(n):
        if isinstance(x, ast.Name):
            x.id = "_"
        elif isinstance(x, ast.Attribute):
            x.attr = "_"
    return ast.dump(n)


def consts(n):
    return tuple(
        x.value.strip()
        for x in ast.walk(n)
        if isinstance(x, ast.Constant) and isinstance(x.value, str) and x.value.strip()
    )


def log_expr(s):
    """The expression a hindsight statement would log for logging-like call s, or None."""
    if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Call)):
        return None
    c = s.value
    t = tail(c.func)
    if t not in LOG_TAILS:
        return None
    if t in ("append", "update") and not METRIC.search(ast.unparse(c)):
        return None
    if any(isinstance(a, ast.Starred) for a in c.args) or any(k.arg is None for k in c.keywords):
        return None
    vals = list(c.args) + [k.value for k in c.keywords]
    if not vals:
        return None
    e = vals[0] if len(vals) == 1 else ast.Tuple(elts=vals, ctx=ast.Load())
    for x in ast.walk(e):
        if isinstance(x, (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr, ast.Lambda)):
            return None
    if not (loads(e) - BUILTIN):
        return None
    return ast.unparse(e)


def own_lines(s, lines):
    """True when s stands alone on its lines."""
    a, b = s.lineno - 1, s.end_lineno - 1
    if lines[a][: s.col_offset].strip():
        return False
    rest = lines[b].encode()[s.end_col_offset :].decode("utf8", "replace").strip()
    return rest == "" or rest.startswith("#")


def cut(lines, s):
    return lines[: s.lineno - 1] + lines[s.end_lineno :]


def put(lines, s, expr, after=False):
    ind = lines[s.lineno - 1][: len(lines[s.lineno - 1]) - len(lines[s.lineno - 1].lstrip())]
    new = f'{ind}flor.log("{MARK}", {expr})'
    if after:
        return [*lines[: s.end_lineno], new, *lines[s.end_lineno :]], s.end_lineno + 1
    return [*lines[: s.lineno - 1], new, *lines[s.end_lineno :]], s.lineno


def path_of(it):
    """Position of a statement as list of (field, index, handler-no) steps from the module."""
    p = []
    ch = it.chain
    nodes = [c[0] for c in ch[1:]] + [it.node]
    for (owner, _f), n in zip(ch, nodes, strict=False):
        k = 0
        for ff, b in blocks(owner):
            for i, s in enumerate(b):
                if s is n:
                    p.append([ff, k, i])
            k += 1
    return p


def qual(it):
    return ".".join(
        n.name for n, _ in it.chain if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    )


def in_scope(it):
    return any(
        isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.For, ast.While, ast.With, ast.AsyncFor))
        for n, _ in it.chain
    )


class Ver:
    def __init__(self, commit, path, src):
        self.commit, self.path, self.src = commit, path, src
        self.lines = src.split("\n")
        self.tree = ast.parse(src)
        self.st = index(self.tree)
        self.txt = {}
        self.by_txt, self.by_key = defaultdict(list), defaultdict(list)
        self.cand = []
        for it in self.st:
            n = it.node
            if any(True for _ in blocks(n)):
                self.txt[id(n)] = header(n)
                continue
            t = ast.unparse(n)
            self.txt[id(n)] = t
            self.by_txt[t].append(it)
            e = log_expr(n)
            if e is not None and in_scope(it) and own_lines(n, self.lines):
                k = (tail(n.value.func), consts(n))
                self.by_key[k].append(it)
                self.cand.append((it, e, k, t))
        self.alltext = set(self.txt.values())
        self.names = (
            {x.id for x in ast.walk(self.tree) if isinstance(x, ast.Name)}
            | {a.arg for a in ast.walk(self.tree) if isinstance(a, ast.arg)}
            | {
                (a.asname or a.name).split(".")[0]
                for x in ast.walk(self.tree)
                if isinstance(x, (ast.Import, ast.ImportFrom))
                for a in x.names
            }
            | {
                x.name
                for x in ast.walk(self.tree)
                if isinstance(x, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
            }
        )
        self.attrs = {x.attr for x in ast.walk(self.tree) if isinstance(x, ast.Attribute)}
        self.words = set(re.findall(r"[A-Za-z_]\w*", src))
        self._al = None


def load(repo, c, p, memo):
    k = (c, p)
    if k not in memo:
        s = repo.blob(c, p)
        try:
            memo[k] = Ver(c, p, s) if s and len(s) < 200_000 and "\x00" not in s else None
        except (SyntaxError, ValueError, RecursionError):
            memo[k] = None
    return memo[k]


def linemap(a, b):
    """1-based line map for equal lines (whitespace ignored)."""
    sa, sb = [l.strip() for l in a.lines], [l.strip() for l in b.lines]
    m = {}
    for i, j, n in difflib.SequenceMatcher(None, sa, sb, autojunk=False).get_matching_blocks():
        for k in range(n):
            m[i + k + 1] = j + k + 1
    return m


def sib(it, v, d):
    i = it.idx + d
    return v.txt[id(it.block[i])] if 0 <= i < len(it.block) else ""


def difficulty(a, va, b, vb):
    chain = [header(n) for n, _ in a.chain] == [header(n) for n, _ in b.chain] and [
        f for _, f in a.chain
    ] == [f for _, f in b.chain]
    p, n = sib(a, va, -1) == sib(b, vb, -1), sib(a, va, 1) == sib(b, vb, 1)
    if chain and p and n:
        return "easy"
    if chain and (p or n):
        return "mid"
    return "hard"


def logging_only(n):
    return (
        isinstance(n, ast.If) and not n.orelse and 1 <= len(n.body) <= 3 and all(log_expr(s) for s in n.body)
    )
