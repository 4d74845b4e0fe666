"""The environment that a version's own files describe, made once by uv and kept by their content.

`uv.lock` (with its `pyproject.toml`) says exactly what was installed, `requirements.txt` and `pyproject.toml` say it as
exactly as they were written. The nearest one above the entry point counts. Nothing of the version itself is installed: its
code runs from the checkout, and today's recorder is put in by path.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from flor_dagster.errors import ReplayError
from flor_dagster.replay.environments import Environment, choose_environment
from flor_dagster.replay.record import RunRecord
from flor_dagster.versions.scratch import scratch_folder

_INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[\s=]*(\S+)", re.MULTILINE)
_KINDS = ("uv.lock", "requirements.txt", "pyproject.toml")
_BESIDE = {"uv.lock": ("pyproject.toml",), "pyproject.toml": ()}
SECONDS = 3600.0
"""Making one environment may download gigabytes."""

Read = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Lock:
    """What describes an environment.

    Args:
        file: the describing file, relative to the repository.
        texts: it and the files that it needs, by their paths.
        python: the Python version that the run had, empty where it is not known.
    """

    file: str
    texts: tuple[tuple[str, str], ...]
    python: str

    @property
    def kind(self) -> str:
        """The file's name without its folder."""
        return PurePosixPath(self.file).name

    @property
    def key(self) -> str:
        """The same for the same content, Python and kind of machine."""
        parts = [
            self.kind,
            self.python,
            sys.platform,
            platform.machine(),
            *(t for pair in self.texts for t in pair),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def find_lock(read: Read, entrypoint: str, python: str, version: str) -> Lock:
    """The file that describes a version's environment: `uv.lock`, else `requirements.txt`, else `pyproject.toml`.

    Args:
        read: gives the text of a file of the version, None where it has none of that name.
        entrypoint: the run's, whose folder is looked in first, then those above it.
        python: the run's Python version.
        version: how the version is called in messages.

    Raises:
        ReplayError: the version has none of them.
    """
    script = PurePosixPath(entrypoint.partition(":")[0])
    folders = [script.parent, *script.parent.parents] if not script.is_absolute() else [PurePosixPath(".")]
    for folder in folders:
        for kind in _KINDS:
            name = (folder / kind).as_posix()
            text = read(name)
            if text is None or (
                kind == "pyproject.toml" and not re.search(r"^\[project\]", text, re.MULTILINE)
            ):
                continue
            texts = {name: text}
            for other in _BESIDE.get(kind, ()):
                beside = read((folder / other).as_posix())
                if beside is not None:
                    texts[(folder / other).as_posix()] = beside
            if kind == "requirements.txt":
                texts |= dict(_included(read, name, text))
            return Lock(name, tuple(sorted(texts.items())), python)
    raise ReplayError(
        f"version {version} has no {', '.join(_KINDS[:-1])} or {_KINDS[-1]}, so --env uv can't make its environment: name an "
        "interpreter with --python"
    )


def _included(read: Read, name: str, text: str) -> Iterator[tuple[str, str]]:
    todo = [(name, text)]
    seen = {name}
    while todo:
        around, content = todo.pop()
        for found in _INCLUDED.findall(content):
            path = os.path.normpath((PurePosixPath(around).parent / found).as_posix())
            inner = read(path) if path not in seen else None
            seen.add(path)
            if inner is not None:
                yield path, inner
                todo.append((path, inner))


def environment_of(lock: Lock, cache: Path, tell: Callable[[str], None] | None = None) -> Path:
    """The interpreter of a lock's environment, which is made where it is not there yet.

    Args:
        lock: what describes it.
        cache: where environments are kept, each under its key.
        tell: told that one is made.

    Raises:
        ReplayError: uv is not installed, or could not make it; the message has its last lines.
    """
    folder = cache / "environments" / lock.key
    python = folder / "bin" / "python"
    ready = folder / "flor-ready.json"
    if ready.is_file() and python.exists():
        return python
    uv = find_uv()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if ready.is_file() and python.exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        if tell is not None:
            tell(f"makes the environment of {lock.file} ({folder})")
        try:
            _make(uv, lock, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        temporary = ready.with_suffix(".tmp")
        temporary.write_text(json.dumps({"file": lock.file, "python": lock.python}), encoding="utf-8")
        temporary.replace(ready)
    return python


def ask_environment(
    lock: Lock | None, record: RunRecord, python: str | None, home: Path, cache: Path
) -> Environment:
    """The interpreter of a run's replay, which the record names from here on.

    That of an environment which is not made yet is only named: making it takes time, and is done before it is needed.

    Args:
        lock: what describes the environment that is asked for, None where none is.
        record: the run's journal.
        python: a given interpreter.
        home: the `.flor/` folder.
        cache: where environments are kept.

    Raises:
        ReplayError: the interpreter can't be used.
    """
    if lock is not None:
        if not is_made(lock, cache):
            return Environment("", (f"its environment is made first, of {lock.file}, by uv",))
        python = str(environment_of(lock, cache))
    environment = choose_environment(record, python, home)
    record.header["executable"] = environment.interpreter
    return environment


def is_made(lock: Lock, cache: Path) -> bool:
    """Whether a lock's environment lies in the cache."""
    return (cache / "environments" / lock.key / "flor-ready.json").is_file()


def find_uv() -> str:
    """The uv command: beside this interpreter, else on the path.

    Raises:
        ReplayError: it is not installed.
    """
    found = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if found is None:
        raise ReplayError(
            "--env uv needs uv, which is not installed here: `pip install uv`, or name an interpreter with --python"
        )
    return found


def _make(uv: str, lock: Lock, folder: Path) -> None:
    with scratch_folder("lock") as temporary:
        root = Path(temporary)
        for name, text in lock.texts:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        source = root / lock.file
        _make_empty(uv, lock, folder, root)
        wanted = source
        if lock.kind == "uv.lock":
            wanted = source.with_name(".flor-requirements.txt")
            export = [
                uv,
                "export",
                "--frozen",
                "--no-emit-project",
                "--no-header",
                "--output-file",
                str(wanted),
            ]
            _run([*export, "--quiet", "--python", str(folder / "bin" / "python")], source.parent, lock)
        install = [
            uv,
            "pip",
            "install",
            "--python",
            str(folder / "bin" / "python"),
            "--requirement",
            str(wanted),
        ]
        _run(install, source.parent, lock)


def _make_empty(uv: str, lock: Lock, folder: Path, root: Path) -> None:
    """The virtual environment, of the run's very Python where that is to be had, else of its minor version."""
    minor = ".".join(lock.python.split(".")[:2])
    choices = [sys.executable] if platform.python_version() == lock.python else []
    choices += [choice for choice in (lock.python, minor) if choice]
    for number, choice in enumerate(choices or [sys.executable]):
        try:
            _run([uv, "venv", "--no-project", "--python", choice, str(folder)], root, lock)
        except ReplayError:
            shutil.rmtree(folder, ignore_errors=True)
            if number == len(choices) - 1:
                raise
        else:
            return


def _run(command: Sequence[str], cwd: Path, lock: Lock) -> None:
    variables = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReplayError(f"the environment of {lock.file} could not be made: {error}") from error
    if done.returncode:
        said = "\n  ".join(done.stderr.strip().splitlines()[-8:])
        raise ReplayError(
            f"the environment of {lock.file} could not be made: `{Path(command[0]).name} {' '.join(command[1:3])}` failed:\n  {said}"
        )
