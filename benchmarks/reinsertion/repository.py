"""Histories of files, read from git mirrors."""

# ruff: noqa: E741, PTH112, PTH118

import os
import re
import subprocess
from collections import Counter


def sh(*a, cwd=None):
    return subprocess.run(a, capture_output=True, check=True, cwd=cwd).stdout.decode("utf8", "replace")


class Repo:
    def __init__(self, mirror, name):
        self.name = name
        g = os.path.join(mirror, name, "repo")
        self.git = g + "/.git" if os.path.isdir(g + "/.git") else g
        self.p = subprocess.Popen(
            ["git", f"--git-dir={self.git}", "cat-file", "--batch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.cache = {}

    def blob(self, commit, path):
        k = f"{commit}:{path}"
        if k not in self.cache:
            self.p.stdin.write((k + "\n").encode())
            self.p.stdin.flush()
            head = self.p.stdout.readline().split()
            if len(head) < 3 or head[1] != b"blob":
                if len(head) >= 3:
                    self.p.stdout.read(int(head[2]) + 1)
                self.cache[k] = None
            else:
                data = self.p.stdout.read(int(head[2]) + 1)[:-1]
                self.cache[k] = (
                    data.decode("utf8", "replace").replace("\r\n", "\n").expandtabs(8)
                    if b"\t" in data
                    else data.decode("utf8", "replace").replace("\r\n", "\n")
                )
        return self.cache[k]

    def files(self, pats):
        """Every path that ever existed on the mainline and matches."""
        out = sh(
            "git",
            f"--git-dir={self.git}",
            "log",
            "--first-parent",
            "-m",
            "--name-only",
            "--format=",
            "HEAD",
            "--",
            "*.py",
        )
        cnt = Counter(l for l in out.split("\n") if l)
        return [
            p
            for p, c in sorted(cnt.items(), key=lambda kv: (-kv[1], kv[0]))
            if c >= 4 and any(re.search(x, p) for x in pats)
        ]

    def history(self, path):
        """[(commit, path)] newest first along the first parent, following renames."""
        last = sh(
            "git",
            f"--git-dir={self.git}",
            "log",
            "--first-parent",
            "-1",
            "--format=%H",
            "--diff-filter=AMR",
            "HEAD",
            "--",
            path,
        ).strip()
        if not last:
            return []
        # a mirror may lack its largest blobs, which breaks --follow's rename search: then take
        # the longer of the partial followed history and the plain one
        best = []
        for flags in (["--follow"], []):
            p = subprocess.run(
                [
                    "git",
                    f"--git-dir={self.git}",
                    "log",
                    "--first-parent",
                    "-m",
                    *flags,
                    "--name-status",
                    "--format=C %H",
                    last,
                    "--",
                    path,
                ],
                capture_output=True,
            )
            res = self.parse(p.stdout.decode("utf8", "replace"))
            if len(res) > len(best):
                best = res
            if p.returncode == 0:
                break
        return best

    @staticmethod
    def parse(out):
        res, cur = [], None
        for l in out.split("\n"):
            if l.startswith("C "):
                cur = l[2:]
            elif l and cur:
                f = l.split("\t")
                if f[0][0] in "AMRC":
                    res.append((cur, f[-1]))
                cur = None
        return res


# ---------------------------------------------------------------- AST helpers
