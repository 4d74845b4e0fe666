"""Build a set of cases from git histories.

No randomness: sampling is by sha1 of stable keys, so that the same mirrors give the same bytes.
"""

# ruff: noqa: E741, N806, B023, PTH112, PTH118, PTH123

import ast
import hashlib
import json
import os
from collections import Counter, defaultdict

from reinsertion.choosing import insert_cases, refuse_cases
from reinsertion.repository import Repo
from reinsertion.sources import SETS
from reinsertion.versions import DISTANCES, cut, difficulty, linemap, load, path_of, put


def key(*a):
    return hashlib.sha1("\x00".join(map(str, a)).encode()).hexdigest()


def build(mirror, name, pats, split, out_ins, out_ref, log):
    repo = Repo(mirror, name)
    seen_hist = set()
    nfiles = 0
    for path in repo.files(pats):
        hist = repo.history(path)
        if len(hist) < 4 or hist[0][0] + hist[0][1] in seen_hist:
            continue
        seen_hist.add(hist[0][0] + hist[0][1])
        nfiles += 1
        if nfiles > 25:
            break
        memo = {}
        vs = []
        for c, p in hist:
            v = repo.blob(c, p)
            if v and (not vs or v != vs[-1][2]):
                vs.append((c, p, v))
        n = len(vs)
        picked_stmt = Counter()
        for d in DISTANCES:
            if d >= n:
                continue
            idx = sorted(range(n - d), key=lambda i: key(name, path, d, vs[i][0]))[:8]
            pool, rpool = [], []
            for i in idx:
                N, O = load(repo, *vs[i][:2], memo), load(repo, *vs[i + d][:2], memo)
                if not N or not O:
                    continue
                lmc = []

                def get_lm(i=i):
                    if not lmc:
                        m = None
                        prev = N
                        for j in range(i + 1, i + d + 1):
                            cur = load(repo, *vs[j][:2], memo)
                            if cur is None:
                                m = {}
                                break
                            s = linemap(prev, cur)
                            m = s if m is None else {a: s[b] for a, b in m.items() if b in s}
                            prev = cur
                        lmc.append(m or {})
                    return lmc[0]

                for a, b, en, eo, fam, idk in insert_cases(N, O, get_lm):
                    pool.append(
                        (
                            difficulty(a, N, b, O),
                            key(name, path, d, vs[i][0], en, a.node.lineno, fam),
                            i,
                            N,
                            O,
                            a,
                            b,
                            en,
                            eo,
                            fam,
                            idk,
                        )
                    )
                for a, e, why in refuse_cases(N, O):
                    rpool.append((why, key(name, path, d, vs[i][0], e, a.node.lineno), i, N, O, a, e))
            # hardest first, few per (file, distance), no statement more than twice per file
            rank = {"hard": 0, "mid": 1, "easy": 2}
            pool.sort(key=lambda x: (rank[x[0]], x[1]))
            got = Counter()
            perpair = Counter()
            for diff, k, i, N, O, a, b, en, eo, fam, idk in pool:
                lim = {"hard": 4, "mid": 3, "easy": 1}[diff]
                if (
                    got[diff] >= lim
                    or picked_stmt[(fam, en)] >= 2
                    or perpair[i] >= 3
                    or (fam == "syn" and got["syn"] >= 3)
                ):
                    continue
                if fam == "del":
                    nl, line = put(N.lines, a.node, en)
                    ol = cut(O.lines, b.node)
                else:
                    nl, line = put(N.lines, a.node, en, after=True)
                    ol = O.lines
                try:
                    ast.parse("\n".join(nl))
                    ast.parse("\n".join(ol))
                except SyntaxError:
                    continue
                tp = path_of(b)
                if fam == "syn":
                    tp[-1][2] += 1
                got[diff] += 1
                got[fam] += 1
                picked_stmt[(fam, en)] += 1
                perpair[i] += 1
                out_ins.append(
                    {
                        "id": f"{name}-{k[:10]}",
                        "split": split,
                        "repo": name,
                        "family": fam,
                        "identity": idk,
                        "difficulty": diff,
                        "distance": d,
                        "path_new": N.path,
                        "path_old": O.path,
                        "commit_new": N.commit,
                        "commit_old": O.commit,
                        "renamed": en != eo,
                        "line": line,
                        "new": "\n".join(nl),
                        "old": "\n".join(ol),
                        "truth": {"path": tp, "expr": eo},
                        "text_new": N.txt[id(a.node)],
                        "text_old": O.txt[id(b.node)],
                        "chain": [[vs[j][0], vs[j][1]] for j in range(i + 1, i + d)],
                    }
                )
            rgot = Counter()
            rpool.sort(key=lambda x: x[1])
            for why, k, i, N, O, a, e in rpool:
                if rgot[why] >= 2 or picked_stmt[("ref", e)] >= 1:
                    continue
                nl, line = put(N.lines, a.node, e)
                try:
                    ast.parse("\n".join(nl))
                except SyntaxError:
                    continue
                rgot[why] += 1
                picked_stmt[("ref", e)] += 1
                out_ref.append(
                    {
                        "id": f"{name}-r{k[:10]}",
                        "split": split,
                        "repo": name,
                        "family": "refuse",
                        "identity": why,
                        "difficulty": "refuse",
                        "distance": d,
                        "path_new": N.path,
                        "path_old": O.path,
                        "commit_new": N.commit,
                        "commit_old": O.commit,
                        "renamed": False,
                        "line": line,
                        "new": "\n".join(nl),
                        "old": O.src,
                        "truth": None,
                        "text_new": N.txt[id(a.node)],
                        "text_old": None,
                        "chain": [[vs[j][0], vs[j][1]] for j in range(i + 1, i + d)],
                    }
                )
    log(f"{name}: files {nfiles}")


def cap(cases, per_repo):
    """At most per_repo cases of one repository, balanced over distance and difficulty."""
    by = defaultdict(lambda: defaultdict(list))
    for c in cases:
        by[c["repo"]][(c["distance"], c["difficulty"], c["family"], c["identity"])].append(c)
    out = []
    for r in sorted(by):
        groups = [sorted(g, key=lambda c: c["id"]) for _, g in sorted(by[r].items())]
        got = 0
        k = 0
        while got < per_repo and any(k < len(g) for g in groups):
            for g in groups:
                if k < len(g) and got < per_repo:
                    out.append(g[k])
                    got += 1
            k += 1
    return out


def write(mirror, name, out, log=print):
    """Build one set and write it.

    Args:
        mirror: Folder of git mirrors, `owner+name/repo` each.
        name: `dev` or `own`.
        out: File to write, one case a line.
        log: Says how it goes.
    """
    ins, ref = [], []
    for repo, patterns in SETS[name].items():
        if not os.path.isdir(os.path.join(mirror, repo, "repo")):
            log(f"{repo}: not in {mirror}, left out")
            continue
        build(mirror, repo, patterns, name, ins, ref, lambda m: log(m, len(ins), len(ref)))
    if name == "own":
        ins, ref = cap(ins, 60), cap(ref, 20)
    with open(out, "w") as f:
        f.writelines(json.dumps(c, sort_keys=True) + "\n" for c in ins + ref)
    log(f"{name}: {len(ins)} to insert, {len(ref)} to refuse")
