"""However a training reads a file: what is the same is `exact`, what is another one never is, whatever its size and time say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.replay.batch_lab import Batch, Case
from tests.replay.oracle_lab import Asked

pytest.importorskip("torch")
pytestmark = pytest.mark.ci

TEXT = """\
import ctypes, io, linecache, mmap, os, pickle, runpy, shelve, shutil, sqlite3, subprocess, tarfile, threading, zipfile, gzip
import multiprocessing as mp
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
import numpy as np
import pandas as pd
import torch
import flor_dagster as flor

def read(path):
    with open(path) as file:
        return file.read()

{setting}
w = 0.0
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        w += 0.5
    flor.log("w", w)
    #? flor.log("ASKED", float(v))
"""

# How a file is read, by what it is called without its folder.
WAYS = {
    "open": "v = read(P('txt'))",
    "pathlib": "v = Path(P('txt')).read_text()",
    "opener": "v = open(P('txt'), opener=lambda p, f: os.open(p, f)).read()",
    "os_open": "f = os.open(P('txt'), os.O_RDONLY); v = os.read(f, 10); os.close(f)",
    "dev_fd": "f = os.open(P('txt'), os.O_RDONLY); v = open(f'/dev/fd/{f}').read()",
    "mmap": "f = open(P('txt'), 'rb'); v = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)[:]",
    "sendfile": "a = os.open(P('txt'), os.O_RDONLY); r, w_ = os.pipe(); os.sendfile(w_, a, 0, 10); v = os.read(r, 10)",
    "thread": "got = []; t = threading.Thread(target=lambda: got.append(read(P('txt')))); t.start(); t.join(); v = got[0]",
    "link": "v = read(P('link'))",
    "hard_link": "v = read(P('hard'))",
    "run_path": "v = runpy.run_path(P('py'))['v']",
    "exec": "names = {}; exec(read(P('py')), names); v = names['v']",
    "fromfile": "v = np.fromfile(P('txt'), dtype=np.uint8).sum()",
    "memmap": "v = np.memmap(P('txt'), dtype=np.uint8, mode='r').sum()",
    "npz": "v = np.load(P('npz'))['a']",
    "npy_mmap": "v = np.load(P('npy'), mmap_mode='r').sum()",
    "pandas": "v = pd.read_csv(P('txt'), header=None).iloc[0, 0]",
    "pickle": "v = pickle.load(open(P('pkl'), 'rb'))",
    "zip": "v = zipfile.ZipFile(P('zip')).read('a')",
    "tar": "v = tarfile.open(P('tar')).extractfile('a').read()",
    "gzip": "v = gzip.open(P('gz')).read()",
    "shelve": "v = shelve.open(P('sh'), 'r')['a']",
    "sqlite": "v = sqlite3.connect(P('db')).execute('select a from t').fetchone()[0]",
    "sqlite_uri": "v = sqlite3.connect('file:' + P('db') + '?mode=ro', uri=True).execute('select a from t').fetchone()[0]",
    "attach": "c = sqlite3.connect(':memory:'); c.execute(f\"attach '{P('db')}' as d\"); v = c.execute('select a from d.t').fetchone()[0]",
    "torch_load": "v = torch.load(P('pt'))",
    "torch_mmap": "v = torch.load(P('pt'), mmap=True)",
    "torch_from_file": "kept = torch.from_file(P('txt'), size=2, dtype=torch.uint8); v = kept.sum()",
    "libc": (
        "libc = ctypes.CDLL(None); libc.fopen.restype = ctypes.c_void_p; b = ctypes.create_string_buffer(20)\n"
        "file = ctypes.c_void_p(libc.fopen(P('txt').encode(), b'r')); libc.fread(b, 1, 10, file); v = b.value"
    ),
    "fork": (
        "r, w_ = os.pipe()\nif not os.fork():\n    os.write(w_, read(P('txt')).encode()); os._exit(0)\nos.wait(); v = os.read(r, 10)"
    ),
    "pool": "with mp.get_context('fork').Pool(1) as pool: v = pool.map(read, [P('txt')])[0]",
    "executor": "with ProcessPoolExecutor(1, mp.get_context('fork')) as pool: v = list(pool.map(read, [P('txt')]))[0]",
    "program": "v = subprocess.check_output(['cat', P('txt')])",
    "shell": "v = subprocess.check_output('cat ' + P('txt') + ' | head -1', shell=True)",
    "popen": "v = os.popen('cat ' + P('txt')).read()",
    "system": "os.system('cp ' + P('txt') + ' ' + P('new')); v = read(P('new'))",
}  # fmt: skip
# What no record can tell is never exact, also where nothing changed.
UNNOTED = {
    "file_io": "v = io.FileIO(P('txt')).read()",
    "proc_cwd": "v = read('/proc/self/cwd/' + P('txt'))",
    "base_class": "v = sqlite3.Connection(P('db')).execute('select a from t').fetchone()[0]",
}
ALL = WAYS | UNNOTED
TRUTH = (
    dict.fromkeys(ALL, 54.0)
    | {way: float(sum(b"54.0")) for way in ("fromfile", "memmap")}
    | {"torch_from_file": float(sum(b"54"))}
)

MAKE = """
import gzip, io, os, pickle, shelve, sqlite3, tarfile, zipfile
import numpy as np, torch

def write(name, kind, v):
    path = f"{name}.data.{kind}"
    if kind in ("link", "hard"):
        write(name, "txt", v)
    if os.path.lexists(path):
        os.unlink(path) if kind in ("link", "hard", "db") else None
    match kind:
        case "txt": open(path, "w").write(v)
        case "py": open(path, "w").write("v = " + v)
        case "link": os.symlink(f"{name}.data.txt", path)
        case "hard": os.link(f"{name}.data.txt", path)
        case "npz": np.savez(open(path, "wb"), a=np.array(float(v)))
        case "npy": np.save(open(path, "wb"), np.array([float(v)]))
        case "pkl": pickle.dump(v, open(path, "wb"))
        case "zip":
            with zipfile.ZipFile(path, "w") as z: z.writestr("a", v)
        case "tar":
            with tarfile.open(path, "w") as t:
                i = tarfile.TarInfo("a"); i.size = len(v); t.addfile(i, io.BytesIO(v.encode()))
        case "gz": gzip.open(path, "w").write(v.encode())
        case "sh":
            with shelve.open(path) as s: s["a"] = v
        case "db":
            c = sqlite3.connect(path); c.execute("create table t(a)"); c.execute("insert into t values(?)", (v,)); c.commit(); c.close()
        case "pt": torch.save(torch.tensor(float(v)), path)

for name, kind in NAMES:
    write(name, kind, VALUE)
"""


def _make(names: list[str], value: str) -> str:
    kinds = [(name, re.findall(r"P\('(\w+)'\)", ALL[name.partition("_")[2]])) for name in names]
    wanted = [(name, kind) for name, some in kinds for kind in some if kind != "new"]
    return MAKE.replace("NAMES", repr(wanted)).replace("VALUE", repr(value))


def _change(names: list[str]) -> Callable[[Path], object]:
    """Another content of the same size, with the times of before: what `touch -r`, reproducible archives and stores with fixed times leave."""

    def change(root: Path) -> None:
        files = [path for name in names for path in root.glob(f"{name}.data.*")]
        before = {path: path.stat() for path in files}
        subprocess.run([sys.executable, "-c", _make(names, "21.0")], cwd=root, check=True)
        for path, status in before.items():
            if not path.is_symlink():
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return change


def _cases() -> dict[str, Case]:
    names = [f"{what}_{way}" for what in ("same", "other") for way in ALL]
    found: dict[str, Case] = {}
    for name in names:
        setting = ALL[name.partition("_")[2]]
        text = TEXT.replace("{setting}", f"P = lambda kind: f'{name}.data.{{kind}}'\n{setting}")
        found[name] = Case(text, oracle=False)
    # Once for all of them.
    others = [name for name in names if name.startswith("other")]
    found[names[0]] = replace(found[names[0]], prepare=_make(names, "54.0"), between=_change(others))
    return found


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Asked]]:
    with Batch(tmp_path_factory.mktemp("ways"), "numpy", "orjson", "pandas", "torch") as batch:
        answers = batch.ask(_cases())
        yield {name: next(iter(of.values())) for name, of in answers.items()}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_the_same_is_exact(asked: dict[str, Asked], way: str) -> None:
    one = asked[f"same_{way}"]
    assert one.fidelity == "exact", one.sentence
    assert [float(str(value)) for _, value in one.values] == [TRUTH[way]] * 3


@pytest.mark.parametrize("way", ALL)
def test_what_is_another_one_is_never_exact(asked: dict[str, Asked], way: str) -> None:
    one = asked[f"other_{way}"]
    # A kept copy is what was read, whatever became of the file.
    if one.fidelity == "exact":
        assert [float(str(value)) for _, value in one.values] == [TRUTH[way]] * 3
    else:
        assert f"other_{way}.data" in one.sentence, one.sentence


@pytest.mark.parametrize("way", UNNOTED)
def test_what_no_record_can_tell_is_unverified(asked: dict[str, Asked], way: str) -> None:
    one = asked[f"same_{way}"]
    assert one.fidelity == "unverified", one.sentence
    assert [float(str(value)) for _, value in one.values] == [54.0] * 3
