"""Which environment variables a program reads, through `os.environ` and `os.getenv`.

What it reads is an input of the training run, whoever reads it for it: click, typer, argparse with an environment, hydra,
pydantic-settings, dotenv. A variable that it finds absent is read, too. What the standard library reads for itself, and what
the program has set itself, is none. Reads in C (`getenv`) are not seen.

`os.environ` stays the object that it is; it gets a subclass of its own class that notes each name once.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from flor_dagster.recording.imports import when_imported
from flor_dagster.recording.masking import known_secrets, secret_name
from flor_dagster.recording.variables import OURS, is_machine, is_numeric, is_of_session, start_environment

By = Literal["own", "library", "listed"]
"""Who read a variable: the program, or a library that configures it; another library; or the program, all of them at once."""

_STRENGTH: dict[By, int] = {"listed": 0, "library": 1, "own": 2}

# Libraries that read the environment for the program that uses them.
_FOR_THE_PROGRAM = frozenset(
    {
        "click", "typer", "typer_slim", "rich_click", "asyncclick", "cloup", "configargparse", "jsonargparse", "simple_parsing", "tyro",
        "fire", "absl", "hydra", "omegaconf", "pydantic_settings", "pydantic", "dotenv", "environs", "environ", "decouple", "dynaconf",
        "confuse", "everett", "starlette", "traitlets", "gin", "ml_collections", "sacred", "yacs", "pyhocon", "envparse",
    }
)  # fmt: skip
_STANDARD = str(Path(os.__file__).parent) + os.sep
_OURS = str(Path(__file__).resolve().parents[1]) + os.sep
_PASSES = frozenset(
    {
        os.__file__,
        "<frozen os>",
        "<frozen _collections_abc>",
        str(Path(os.__file__).parent / "_collections_abc.py"),
    }
)
_OURSELVES = frozenset({__file__})
_ENV_POSITION = 10
"""How many arguments of `subprocess.Popen` come before `env`."""
_CWD_POSITION = 9
_INSTALLED = r"[/\\](?:site|dist)-packages[/\\]([^/\\]+)"
_INSTALLED_AT = r"[/\\](?:site|dist)-packages[/\\]|[/\\]bin[/\\][^/\\]+$"


@dataclass(frozen=True, slots=True)
class Read:
    """A variable that was read: by whom, and its value then, None where it was absent."""

    name: str
    by: By
    value: str | None


reads: dict[str, Read] = {}
"""What this process has read so far, by name."""

starters: list[Callable[[Any, Any], None]] = []
"""Told of every program that is about to be started: its command or arguments, and its working directory (None: this one)."""
listeners: list[Callable[[Read], None]] = []
"""Told of each new read: the training run that is being recorded."""

_set_here: set[str] = set()
_set_early: set[str] = set()
"""What a script had set by the time that reads were first noted: what it found at its start, it may have read before."""
_early_modules: frozenset[str] = frozenset()
"""What had been imported by the time that reads were first noted."""
_early_script: tuple[str, int] = ("", 0)
"""The script that had begun by then, and the line that it had reached."""
_yielded: dict[int, str] = {}
"""The names that listings gave out, by their identity: who asks for the value of such a name reads nothing but the list."""
_MAX_YIELDED = 10_000


def watch() -> None:
    """Note from here on what is read; once per process."""
    global _early_modules, _early_script
    kind = type(os.environ)
    if hasattr(kind, "_flor_notes"):
        return
    _early_modules, _early_script = frozenset(sys.modules), _script_reached()

    os.environ.__class__ = _noted_kind(kind)  # type: ignore[assignment]
    if hasattr(os, "environb"):
        os.environb.__class__ = os.environ.__class__  # type: ignore[assignment]
    if _early_script[0] and re.search(_INSTALLED_AT, _early_script[0]) is None:
        _note_changed_early()
    _watch_children()


def _noted_kind(kind: type) -> type:
    """A subclass of the class of `os.environ` that notes what is read from it."""

    class _Noted(kind):  # type: ignore[misc, valid-type]
        """`os.environ`, with what is read from it noted."""

        _flor_notes = True

        def __getitem__(self, key: Any) -> Any:
            try:
                value = super().__getitem__(key)
            except KeyError:
                if _yielded.get(id(key)) is not key:
                    _note(key, None, sys._getframe(1))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
                raise
            if _yielded.get(id(key)) is not key:
                _note(key, value, sys._getframe(1))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            return value

        def __len__(self) -> int:
            _note_listing(sys._getframe(1))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            return super().__len__()

        def __setitem__(self, key: Any, value: Any) -> None:
            super().__setitem__(key, value)
            _changed(key)
            name = _text(key)
            if name not in OURS and secret_name(name):
                known_secrets.add({name: _text(value)})

        def __delitem__(self, key: Any) -> None:
            super().__delitem__(key)
            _changed(key)

        def __iter__(self) -> Iterator[Any]:
            _note_listing(sys._getframe(1))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            if len(_yielded) > _MAX_YIELDED:
                _yielded.clear()
            for key in super().__iter__():
                _yielded[id(key)] = key
                yield key

        def copy(self) -> dict[Any, Any]:
            _note_listing(sys._getframe(1))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            return {self.decodekey(k): self.decodevalue(v) for k, v in _raw().items()}

    _Noted.__name__, _Noted.__qualname__ = kind.__name__, kind.__qualname__
    _Noted.__module__ = kind.__module__
    return _Noted


def _text(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, str | bytes) else ""


def _note_changed_early() -> None:
    """What a script has set by now, it has not read from outside."""
    started = start_environment()
    now = {os.fsdecode(k): os.fsdecode(v) for k, v in _raw().items()}
    _set_early.update(n for n in started.keys() | now.keys() if started.get(n) != now.get(n))
    _set_here.update(_set_early)


def _script_reached() -> tuple[str, int]:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if frame.f_globals.get("__name__") == "__main__":
            return os.path.abspath(frame.f_code.co_filename), frame.f_lineno  # noqa: PTH100 - at every start
        frame = frame.f_back
    return "", 0


def read_before(folder: Path, modules: dict[str, str], environment: dict[str, str]) -> None:
    """Note the variables that may have been read before this was watched: those that the repository's sources name.

    Where code that ran by then reads names that it computes, all of them may have been read.

    Args:
        folder: the repository.
        modules: the modules that are loaded: name → source file.
        environment: what the process was started with.
    """
    own = _set_here - _set_early
    candidates = {n for n in environment if n not in reads and n not in own and not _skipped(n)}
    for module, file in modules.items():
        if not candidates:
            return
        try:
            text = (folder / file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        line = sys.maxsize if module != "__main__" and module in _early_modules else 0
        if file == _early_script[0]:
            line = _early_script[1]
        if line and _computes_names(text, line):
            for name in sorted(candidates):
                _keep(Read(name, "listed", environment[name]))
        for name in sorted(
            candidates.intersection(re.findall(r"""["']([A-Za-z_][A-Za-z0-9_]*)["']""", text))
        ):
            candidates.discard(name)
            _keep(Read(name, "own", environment[name]))


def _computes_names(text: str, before: int) -> bool:
    """Whether a source may read environment variables, above a line, whose names do not stand there.

    By itself, through a process that it starts, or through a library that reads them for it.
    """
    if not re.search(_READERS, text):
        return False
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    named: set[int] = set()
    environs: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("getenv", "get", "pop", "setdefault") and _is_text(node.args[0]):
                named.update((id(node.func), id(getattr(node.func, "value", None))))
        elif isinstance(node, ast.Subscript) and (_is_text(node.slice) or isinstance(node.ctx, ast.Store)):
            named.add(id(node.value))
        elif isinstance(node, ast.Compare) and _is_text(node.left):
            named.update(map(id, node.comparators))
        elif isinstance(node, ast.Attribute) and node.attr in ("update", "clear"):
            named.add(id(node.value))
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if name in ("environ", "environb", "getenv", "getenvb") and node.lineno < before:
                environs.append(node)
        if isinstance(node, ast.Call) and node.lineno < before and _reads_all(node):
            return True
    return any(id(node) not in named for node in environs) or _calls_reader(tree, before)


_READERS = r"environ|getenv|subprocess|popen|Popen|system|spawn|expandvars|\bexec\b|\beval\b|" + "|".join(
    sorted(_FOR_THE_PROGRAM - {"environ"})
)
_STARTS = frozenset(
    {
        "Popen", "check_output", "check_call", "getoutput", "getstatusoutput", "popen", "spawnl", "spawnlp", "spawnv", "spawnvp",
        "posix_spawn", "create_subprocess_exec", "create_subprocess_shell",
    }
)  # fmt: skip


def _reads_all(call: ast.Call) -> bool:
    """Whether a call starts a process with this environment, or looks up names that stand in a text."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = getattr(getattr(function, "value", None), "id", "")
    if (
        name in _STARTS
        or (owner == "subprocess" and name in ("run", "call"))
        or (owner == "os" and name == "system")
    ):
        return not any(keyword.arg == "env" for keyword in call.keywords)
    return name == "expandvars" or (isinstance(function, ast.Name) and name in ("exec", "eval"))


def _calls_reader(tree: ast.Module, before: int) -> bool:
    """Whether code that runs when its module is loaded calls what may read the environment for it.

    That is what it imports from a library that does so, and what it defines itself where it imports one.
    """
    libraries: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            libraries |= {
                a.asname or a.name for a in node.names if a.name.partition(".")[0] in _FOR_THE_PROGRAM
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _FOR_THE_PROGRAM:
            libraries |= {a.asname or a.name for a in node.names}
    libraries.discard("load_dotenv")  # which reads what stands in its file, by the names there
    if not libraries:
        return False
    own = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    for statement in tree.body:
        if (
            isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            or statement.lineno >= before
        ):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and node.lineno < before and _root(node.func) in libraries | own:
                return True
    return False


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _raw() -> Any:
    """The mapping behind `os.environ`: looking into it is no reading."""
    return getattr(os.environ, "_data", {})


def _skipped(name: str) -> bool:
    return is_numeric(name) or is_machine(name) or is_of_session(name)


def _changed(key: Any) -> None:
    if isinstance(key, str | bytes):
        _set_here.add(os.fsdecode(key))


def _note(name: Any, value: Any, frame: FrameType | None) -> None:
    if type(name) is bytes:
        name, value = os.fsdecode(name), _text(value) if value is not None else None
    known = reads.get(name)
    if (known is not None and known.by == "own") or name in _set_here or type(name) is not str:
        return
    by, _ = _reader(frame)
    if by is not None and (known is None or _STRENGTH[by] > _STRENGTH[known.by]) and name not in OURS:
        _keep(Read(name, by, value))


def _keep(read: Read) -> None:
    reads[read.name] = read
    for listener in listeners:
        listener(read)


def _note_listing(frame: FrameType | None) -> None:
    """The whole environment is read: by the program, or for it. What of it matters is not known, but for settings' fields."""
    while frame is not None and frame.f_code.co_filename in _PASSES:
        frame = frame.f_back
    if frame is not None and frame.f_code.co_name == _PROXIES:
        _note_proxies(frame)
        return
    if frame is None or _is_standard(frame):
        return
    by, library = _reader(frame)
    if by != "own" or library == "dotenv":  # which only has them at hand for what its file refers to
        return
    fields = _fields_of_settings(frame) if library == "pydantic_settings" else None
    if fields is None:
        _note_all()
        return
    for raw_name, raw_value in list(_raw().items()):
        name = os.fsdecode(raw_name)
        if name not in _set_here and fields(name) and (name not in reads or reads[name].by != "own"):
            _keep(Read(name, "own", os.fsdecode(raw_value)))


_PROXIES = "getproxies_environment"
"""A function of `urllib.request` that looks through all variables for whoever calls it."""


_NAMED_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


def _note_proxies(frame: FrameType) -> None:
    now = {os.fsdecode(name): os.fsdecode(value) for name, value in _raw().items()}
    for name in sorted({*_NAMED_PROXIES, *(name for name in now if name.lower().endswith("_proxy"))}):
        _note(name, now.get(name), frame)


def _is_standard(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith("<frozen "):
        return not file.startswith("<frozen importlib")  # below it, a module is being imported
    return file in _PASSES or (file.startswith(_STANDARD) and "-packages" not in file)


def _watch_children() -> None:
    """Note where the program starts a process with its own environment: what that reads of it, nobody here sees."""
    import subprocess

    plain = subprocess.Popen.__init__
    passes = frozenset({subprocess.__file__, *_PASSES})

    @functools.wraps(plain)
    def begin(self: Any, *positional: Any, **named: Any) -> None:
        given = positional[0] if positional else named.get("args")
        folder = positional[_CWD_POSITION] if len(positional) > _CWD_POSITION else named.get("cwd")
        for told in starters:
            told(given, folder)
        if named.get("env") is None and len(positional) <= _ENV_POSITION:
            frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            while frame is not None and frame.f_code.co_filename in passes:
                frame = frame.f_back
            if frame is not None and not _is_standard(frame) and _reader(frame)[0] == "own":
                _note_all()
        plain(self, *positional, **named)

    subprocess.Popen.__init__ = begin  # type: ignore[method-assign]
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_note_before_run)
    when_imported("multiprocessing.process", _watch_processes)
    for name in ("system", "spawnv", "spawnvp"):
        if hasattr(os, name):
            setattr(os, name, _noting(getattr(os, name)))


def _watch_processes() -> None:
    kind = sys.modules["multiprocessing.process"].BaseProcess  # type: ignore[attr-defined]
    plain = kind.start

    @functools.wraps(plain)
    def start(self: Any) -> None:
        _note_before_run()
        plain(self)

    kind.start = start


def _note_before_run() -> None:
    """A process is started while no run is recorded yet: what it reads, it tells nobody."""
    if not listeners and _reader(sys._getframe(1))[0] == "own":  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        _note_all()


def _noting(start: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `os` that starts a process with this environment."""

    @functools.wraps(start)
    def noted(*positional: Any, **named: Any) -> Any:
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        if _reader(frame)[0] == "own":
            _note_all()
        for told in starters:
            # `os.system(command)`, `os.spawnv(mode, file, arguments)`
            told(positional[-1] if positional else next(iter(named.values()), ()), None)
        return start(*positional, **named)

    return noted


def _note_all() -> None:
    for raw_name, raw_value in list(_raw().items()):
        name = os.fsdecode(raw_name)
        if name not in reads and name not in _set_here and not _skipped(name):
            _keep(Read(name, "listed", os.fsdecode(raw_value)))


def _fields_of_settings(frame: FrameType | None) -> Callable[[str], bool] | None:
    """Whether a class of pydantic-settings, which reads all variables at once, has a field for one; None where it can't be told."""
    while frame is not None:
        source = frame.f_locals.get("self")
        config: Any = getattr(source, "config", None)
        fields: Any = getattr(getattr(source, "settings_cls", None), "model_fields", None)
        if isinstance(fields, dict) and isinstance(config, dict):
            return _has_field(
                fields, str(config.get("env_prefix") or ""), str(config.get("env_nested_delimiter") or "")
            )
        frame = frame.f_back
    return None


def _has_field(fields: dict[str, Any], prefix: str, nested: str) -> Callable[[str], bool]:
    names = {f"{prefix}{name}".lower() for name in fields}
    for field in fields.values():
        alias = getattr(field, "validation_alias", None) or getattr(field, "alias", None)
        choices = getattr(alias, "choices", None) or [alias]
        names |= {choice.lower() for choice in choices if isinstance(choice, str)}
    parts = tuple(name + nested.lower() for name in names) if nested else ()
    return lambda variable: variable.lower() in names or variable.lower().startswith(parts or "\0")


def _reader(frame: FrameType | None) -> tuple[By | None, str]:
    """Who asked: the program or what reads for it, another library (with its name), or nobody that matters.

    The standard library looks variables up for whoever calls it (`os.path.expandvars`, `string.Template`); what it looks up while
    it is imported is its own business.
    """
    while frame is not None and (_is_standard(frame) or frame.f_code.co_filename in _OURSELVES):
        frame = frame.f_back
    if frame is None:
        return None, ""
    file = frame.f_code.co_filename
    installed = re.search(_INSTALLED, file)
    if installed is not None:
        if file.startswith(_OURS):
            return None, ""
        library = installed[1].removesuffix(".py")
        return ("own" if library in _FOR_THE_PROGRAM else "library"), library
    if file.startswith((_STANDARD, _OURS, "<frozen ")):
        return None, ""
    return "own", ""
