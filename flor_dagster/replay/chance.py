"""Where a version's code takes what no replay can give again: entropy, the clock, the order of threads, addresses, folders.

From the source alone. What is found is a suspect, named where a replay and its repetition differ; it is no verdict.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flor_dagster.parsing import parse_python
from flor_dagster.recording.tainting import expression_is_tainted, scopes_of

SHOWN = 3
"""So many suspects are named."""

# Generators that begin with the system's entropy where they are given no seed, and functions that seed one so.
_GENERATORS = frozenset(
    {
        "random.Random", "numpy.random.default_rng", "numpy.random.RandomState", "numpy.random.SeedSequence",
        "numpy.random.PCG64", "numpy.random.PCG64DXSM", "numpy.random.MT19937", "numpy.random.Philox", "numpy.random.SFC64",
    }
)  # fmt: skip
_SEEDING = frozenset(
    {"random.seed", "numpy.random.seed", "torch.seed", "torch.manual_seed", "torch.cuda.manual_seed_all"}
)
_SEEDING_METHODS = frozenset({"seed", "manual_seed"})
_ENTROPY = frozenset({"os.urandom", "os.getrandom", "random.SystemRandom", "uuid.uuid4", "uuid.uuid1", "torch.initial_seed"})  # fmt: skip
_SIDE_BY_SIDE = frozenset(
    {
        "threading.Thread", "threading.Timer", "concurrent.futures.ThreadPoolExecutor", "concurrent.futures.ProcessPoolExecutor",
        "multiprocessing.Process", "multiprocessing.Pool", "multiprocessing.pool.ThreadPool", "multiprocessing.pool.Pool",
        "multiprocessing.dummy.Pool", "concurrent.futures.as_completed", "asyncio.as_completed", "joblib.Parallel",
    }
)  # fmt: skip
_FOLDERS = frozenset({"os.listdir", "os.scandir", "os.walk", "glob.glob", "glob.iglob"})
_FOLDER_METHODS = frozenset({"iterdir", "rglob", "glob"})
_ORDERING = frozenset({"sorted", "len", "set", "frozenset", "sum", "min", "max", "any", "all"})
_NETWORK = ("requests.", "urllib.request.", "httpx.", "http.client.")

_UNSEEDED, _SEEDED_BY_CLOCK, _TAKEN, _THREADS, _ADDRESS, _ORDER, _WEB = range(7)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A place in the code that may give something else every time.

    Args:
        kind: the likelier one has the lower number.
        file: relative to the repository.
        line: in the version's own source.
        words: what is done there.
        repeatable: whether two replays on one machine may well agree on it, and differ from the record all the same.
    """

    kind: int
    file: str
    line: int
    words: str
    repeatable: bool = False

    @property
    def sentence(self) -> str:
        """In words, with its place."""
        return f"{self.file}:{self.line} {self.words}"


def suspects(sources: Mapping[str, str], *, repeats: bool = False) -> list[Suspect]:
    """What in a version's files may give something else every time, the likeliest first.

    Args:
        sources: file → text.
        repeats: whether two replays came to the same; then only what may agree on one machine is named.
    """
    found: dict[Suspect, None] = {}
    for file, text in sources.items():
        try:
            tree = parse_python(text)
        except (SyntaxError, ValueError):
            continue
        found |= dict.fromkeys(_in_file(file, tree))
    return sorted((s for s in found if s.repeatable or not repeats), key=lambda s: (s.kind, s.file, s.line))


def _in_file(file: str, tree: ast.Module) -> Iterator[Suspect]:
    names = _imported(tree)
    ordered = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ORDERING
        for argument in node.args
        for inner in ast.walk(argument)
    }
    holders = {
        id(node.value): ast.unparse(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and len(node.targets) == 1
    }
    for scope, tainted in scopes_of(tree):
        for node in ast.walk(scope):
            if isinstance(node, ast.Call):
                one = _judge(node, _dotted(node.func, names), tainted, holders.get(id(node), ""))
                if one is not None and not (one[0] == _ORDER and id(node) in ordered):
                    yield Suspect(one[0], file, node.lineno, one[1], one[0] in (_ORDER, _WEB))


def _judge(node: ast.Call, name: str, tainted: set[str], holder: str) -> tuple[int, str] | None:
    called = ast.unparse(node.func)
    method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    given = [*node.args, *(k.value for k in node.keywords)]
    seeding = name in _SEEDING or name in _GENERATORS or (method in _SEEDING_METHODS and bool(given))
    who = f"makes `{holder}`, a generator" if holder and name in _GENERATORS else f"calls `{called}`"
    if seeding and any(expression_is_tainted(value, tainted) for value in given):
        return _SEEDED_BY_CLOCK, f"{who}, seeded with the clock, the process or the machine"
    nothing = all(isinstance(value, ast.Constant) and value.value is None for value in given)
    if nothing and (name in _GENERATORS or (name in _SEEDING and name != "torch.manual_seed")):
        return _UNSEEDED, f"{who}, without a seed"
    if name in _ENTROPY or name.startswith("secrets."):
        return _TAKEN, f"takes the system's entropy (`{called}`)"
    if name in _SIDE_BY_SIDE or method == "imap_unordered":
        return _THREADS, f"lets work go on side by side (`{called}`), which ends in no fixed order"
    if name == "id" and len(given) == 1:
        return _ADDRESS, "uses the address of an object (`id`)"
    if name in _FOLDERS or (method in _FOLDER_METHODS and "." not in name.removesuffix(f".{method}")):
        return _ORDER, f"takes files in the order that the folder has them (`{called}`, without `sorted`)"
    if name.startswith(_NETWORK):
        return _WEB, f"asks the network (`{called}`)"
    return None


def _imported(tree: ast.Module) -> dict[str, str]:
    """Local name → the dotted name that it was imported as."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _dotted(func: ast.expr, names: Mapping[str, str]) -> str:
    """`np.random.default_rng` → `numpy.random.default_rng`; empty where it is no dotted name."""
    if isinstance(func, ast.Name):
        return names.get(func.id, func.id)
    if isinstance(func, ast.Attribute):
        around = _dotted(func.value, names)
        return f"{around}.{func.attr}" if around else ""
    return ""
