"""`FlorProject`: what a project is, said once: a git repository and its training entry points."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from flor_dagster.errors import FlorError, NoRepositoryError
from flor_dagster.recording import layout
from flor_dagster.replay.given import read_supplied
from flor_dagster.replay.workspace import Source, Workspace
from flor_dagster.store.models import StatementRow

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_CELLS = 50_000

# Asset metadata by which `@flor_asset` says where its function is: it survives Dagster's copies of a definition.
FILE_METADATA = "flor/file"
FUNCTION_METADATA = "flor/function"

_PACKAGE = Path(__file__).resolve().parent.parent


class ProjectError(FlorError):
    """A `FlorProject` is described in a way that can't work; the message says which part."""


@dataclass(frozen=True)
class FlorProject:
    """A git repository and its training entry points, as Dagster shows them.

    Args:
        name: prefix of every asset, job and sensor of the project; letters, digits and underscores.
        repo: the repository's folder. A relative path counts from the file that makes the project; where nothing
            lies there, from the working directory.
        entrypoints: training scripts, relative to the repository (`"train.py"`); functions in them
            (`"pipeline.py:train"`); or assets made by `@flor_asset`, which then belong to the project's definitions.
            Empty: every entry point that has recorded training runs.
        store_url: SQLAlchemy URL of the log store; empty keeps SQLite in the repository's `.flor/`.
        group_name: Dagster group of the project's assets; the project's name where it is empty.
        remote_url: web address of the repository (`"https://github.com/me/digits"`), for links to commits and lines.
        max_cells: how many cells (training runs by open questions) may be registered with Dagster.
        env_vars: names of environment variables that replays take from the Dagster run's own environment, also where they
            were others when a training run was recorded: secrets that are renewed.
        env_file: a file of `NAME=VALUE` lines that replays are given, likewise. No value of either gets into Dagster.

    Raises:
        ProjectError: a field that can't work.
        NoRepositoryError: `repo` is not a folder.
    """

    name: str
    repo: str | Path
    entrypoints: Sequence[str | dg.AssetsDefinition] = ()
    store_url: str = ""
    group_name: str = ""
    remote_url: str = ""
    max_cells: int = MAX_CELLS
    env_vars: Sequence[str] = ()
    env_file: str | Path = ""
    root: Path = field(init=False, repr=False, compare=False)
    assets: tuple[dg.AssetsDefinition, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ProjectError(
                f"A project's name becomes part of asset and job names: letters, digits and underscores, not starting "
                f"with a digit. {self.name!r} is not such a name."
            )
        if isinstance(self.entrypoints, str):
            raise ProjectError(f"entrypoints is a list: write entrypoints=[{self.entrypoints!r}].")
        if self.max_cells < 1:
            raise ProjectError(f"max_cells is a number of cells, at least 1, not {self.max_cells}.")
        folder = _resolve(Path(self.repo).expanduser())
        place = layout.find_place(folder)
        # Without a repository the folder stands for it until the project is opened, which then says what is wrong.
        root = folder if place is None else place.root
        assets = tuple(entry for entry in self.entrypoints if isinstance(entry, dg.AssetsDefinition))
        entries = tuple(
            _entrypoint_of(entry, root) if isinstance(entry, dg.AssetsDefinition) else _checked(entry)
            for entry in self.entrypoints
        )
        # Frozen: the resolved fields are set once, here.
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "repo", str(root))
        object.__setattr__(self, "entrypoints", entries)
        object.__setattr__(self, "assets", assets)

    @property
    def scripts(self) -> tuple[str, ...]:
        """The entry points as text, assets of `@flor_asset` as `file.py:function`."""
        return tuple(str(entry) for entry in self.entrypoints)

    def workspace(self) -> Workspace:
        """Open the project for asking: its repository, its log store. A context manager.

        Raises:
            NoRepositoryError: the folder is not (in) a git repository.
            StoreError: the log store can't be opened.
        """
        workspace = KeyedWorkspace.open(self.root, entrypoints=self.scripts, store_url=self.store_url or None)
        workspace.supply = self._supplied
        return workspace

    def _supplied(self) -> Mapping[str, str]:
        """What replays are given of this process's environment and of the file, read when it is needed."""
        if not self.env_file and not self.env_vars:
            return {}
        names = [name for name in self.env_vars if name in os.environ]
        return read_supplied(names, [self.root / Path(self.env_file).expanduser()] if self.env_file else [])


class KeyedWorkspace(Workspace):
    """A workspace in which the key of an open question means exactly that statement.

    On the command line a name means its newest definition. A partition key is not a name: `loss` stays the statement it
    was given to, also after another definition has become `loss:2`.
    """

    def resolve(self, name: str, source: Source = "worktree") -> tuple[StatementRow, ...]:
        """The statement of a key, else what the name means."""
        known = tuple(row for row in self.questions() if row.key == name)
        return known or super().resolve(name, source)


def _checked(entry: str) -> str:
    path = entry.partition(":")[0]
    if not path.endswith(".py") or Path(path).is_absolute() or ".." in Path(path).parts:
        raise ProjectError(
            f"An entry point is a script inside the repository, as in 'train.py' or 'pipeline.py:train'; not {entry!r}."
        )
    return entry


def _entrypoint_of(asset: dg.AssetsDefinition, root: Path) -> str:
    for spec in asset.specs:
        file, function = spec.metadata.get(FILE_METADATA), spec.metadata.get(FUNCTION_METADATA)
        if file is None or function is None:
            continue
        path = Path(str(getattr(file, "value", file))).resolve()
        if not path.is_relative_to(root):
            raise ProjectError(
                f"The training asset {spec.key.to_user_string()} stands in {path}, outside the repository {root}."
            )
        return f"{path.relative_to(root).as_posix()}:{getattr(function, 'value', function)}"
    raise ProjectError(
        f"{asset.specs_by_key and next(iter(asset.keys)).to_user_string()} is an asset without a recorded training; "
        "decorate its function with @flor_asset."
    )


def _resolve(path: Path) -> Path:
    candidates = [path] if path.is_absolute() else [_calling_folder() / path, Path.cwd() / path]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate.resolve()
    tried = " or ".join(str(candidate) for candidate in dict.fromkeys(candidates))
    raise NoRepositoryError(
        f"No folder {tried}: repo is the folder of a git repository that holds the training."
    )


def _calling_folder() -> Path:
    """The folder of the file that makes the project: the first frame outside this package and the generated code."""
    frame = inspect.currentframe()
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_file() and _PACKAGE not in file.resolve().parents:
            return file.resolve().parent
        frame = frame.f_back
    return Path.cwd()
