"""What a replay's child is given of the world that the run ran in: environment variables, secrets, interpreter options.

The recorded numeric variables, those of the program's own that were kept, or whose digest equals today's value, this machine's
paths, what the asker supplies, and nothing else. What can't be given back is named before anything runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import ReplayError
from flor_dagster.recording.masking import (
    KEY_FILE,
    keyed_digest,
    masked_names,
    project_key,
    secret_name,
)
from flor_dagster.recording.ranks import LAUNCH_VARIABLES
from flor_dagster.recording.variables import is_machine, is_numeric, machine_variables

if TYPE_CHECKING:
    from flor_dagster.replay.record import RunRecord

SHOWN = 5
"""So many names stand in one sentence."""


@dataclass(frozen=True, slots=True)
class VariableRead:
    """What a run's journal says of an environment variable that its program read; `digest` is None where it was absent."""

    name: str
    by: str
    digest: str | None
    value: str | None


@dataclass(frozen=True, slots=True)
class Given:
    """What a child is given.

    Args:
        environment: all of its environment, but for what a replay sets for itself.
        secrets: those of the command line and the arguments, by the names that they are asked by.
        options: the interpreter's.
        missing: what the run read and can't be given back, each in words; nothing may run then.
        notes: what libraries read and is not as it was.
        supplied: what the asker gave, in words; it stands in the answers.
        doubt: why no answer can be exact; empty where one can.
        world: tells what the asker supplied from what others do, where an answer depends on it; see `world_of`.
    """

    environment: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, str] = field(repr=False)
    options: tuple[str, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    supplied: tuple[str, ...] = ()
    doubt: str = ""
    world: str = ""


def given_back(
    record: RunRecord, home: Path, supplied: Mapping[str, str], today: Mapping[str, str] | None = None
) -> Given:
    """Work out what a run's replays are given.

    Args:
        record: the run's journals.
        home: the `.flor/` folder, with the key of the digests.
        supplied: variables and secrets that the asker gives, by name.
        today: this process's environment.
    """
    today = os.environ if today is None else today
    giving = _Giving(home, supplied, today)
    header = record.header
    giving.environment |= machine_variables(today)
    giving.numeric(header.get("variables") or {})
    for read in _reads(record):
        giving.variable(read)
    for number, name, digest in header.get("masked") or ():
        giving.secret("its " + (name if name.startswith("argument-") else f"argument {name}"), name, digest)
        giving.used.add(f"argument-{number}")
    for argument, value in record.args.items():
        for name, digest in masked_names(value).items():
            # What stands in the code itself, the code has: the replay compares it.
            if not (record.sources.get(argument) == "default" and name not in supplied):
                giving.secret(f"its argument {argument}", name, digest)
    giving.rest()
    # A run without a fixed hash seed has an order of its own in every set of texts; a fixed one here at least repeats.
    giving.environment.setdefault("PYTHONHASHSEED", "0")
    options = (header.get("process") or {}).get("options") or ()
    return Given(
        giving.environment, giving.secrets, tuple(options), tuple(giving.missing), tuple(giving.notes),
        tuple(giving.supplied), "; ".join(giving.doubts), world_of(home, supplied) if giving.others else "",
    )  # fmt: skip


def world_of(home: Path, supplied: Mapping[str, str]) -> str:
    """A keyed digest of what an asker supplies: an answer of one world is none in another. Empty where nothing is supplied."""
    if not supplied:
        return ""
    try:
        return keyed_digest(project_key(home), json.dumps(sorted(supplied.items())))
    except OSError as error:
        raise ReplayError(f"the key of {home} can't be read: {error}") from error


def _reads(record: RunRecord) -> list[VariableRead]:
    """What the program read, of all its ranks; the launch tells each rank its own."""
    found: dict[str, VariableRead] = {}
    for one in record.ranks:
        for read in one.variables.values():
            known = found.get(read.name)
            if not _of_launch(read.name) and (known is None or (read.by == "own" and known.by != "own")):
                found[read.name] = read
    return list(found.values())


def _of_launch(name: str) -> bool:
    """Whether a launcher tells it to its ranks: a replay launches them itself, and meets them at a place of its own."""
    return name in LAUNCH_VARIABLES or name.startswith("TORCHELASTIC_")


class _Giving:
    def __init__(self, home: Path, supplied: Mapping[str, str], today: Mapping[str, str]) -> None:
        self._home = home
        self._supplied = {name.lstrip("-"): value for name, value in supplied.items()}
        self._today = today
        self._key: bytes | None = None
        self.environment: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        self.missing: list[str] = []
        self.notes: list[str] = []
        self.supplied: list[str] = []
        self.doubts: list[str] = []
        self.others = False
        """Whether the asker gave another value than the recorded one."""
        self.used: set[str] = set()
        self._listed: list[str] = []

    def numeric(self, variables: Mapping[str, str]) -> None:
        """The recorded numeric variables, and those that the asker puts in their places."""
        self.environment |= variables
        for name, value in self._supplied.items():
            if is_numeric(name) and not secret_name(name):
                self.used.add(name)
                self.environment[name] = value
                if variables.get(name) != value:
                    was = variables.get(name, "not set")
                    self.others = True
                    self.supplied.append(f"{name}={value} was given by the asker; it was {was}")
                    self.doubts.append(f"{name} was {was} and is {value}")
        for name in ("LD_PRELOAD", "DYLD_INSERT_LIBRARIES"):
            absent = [
                p
                for p in variables.get(name, "").replace(":", " ").split()
                if "/" in p and not Path(p).exists()
            ]
            if absent:
                self.notes.append(f"{name} named {', '.join(absent)}, which is not here")

    def variable(self, read: VariableRead) -> None:
        """One that the program read."""
        name = read.name
        if is_numeric(name) and not secret_name(name):
            return
        if name in self._supplied:
            self._supply(read)
        elif read.digest is None:
            if read.by == "own":
                self.environment.pop(name, None)
        elif is_machine(name) and name in self.environment:
            # Every process that is started looks at PATH; where programs lie decides no value.
            if read.by == "own" and name != "PATH" and not self._equals(read.digest, self.environment[name]):
                self.doubts.append(f"{name}, which this run read, is another one here")
        elif read.value is not None:
            self.environment[name] = read.value
        elif self._equals(read.digest, self._today.get(name)):
            self.environment[name] = self._today[name]
        else:
            self._lacking(read)

    def _supply(self, read: VariableRead) -> None:
        name, value = read.name, self._supplied[read.name]
        self.used.add(name)
        self.environment[name] = value
        same = value == read.value if read.value is not None else self._equals(read.digest, value)
        if same:
            self.supplied.append(f"{name} was given by the asker, with its recorded value")
            return
        self._other(name)

    def _lacking(self, read: VariableRead) -> None:
        name = read.name
        there = name in self._today
        how = "has another value now" if there else "is not set here"
        if there and not (self._home / KEY_FILE).exists():
            how = f"can't be compared with the recorded one, because {self._home / KEY_FILE} is gone"
        if read.by == "listed":
            self._listed.append(name)
        elif read.by == "library":
            self.doubts.append(f"{name}, which a library of this run read, {how}; the replay goes without it")
        else:
            kind = (
                "a likely secret, so its value was not kept"
                if secret_name(name)
                else "its value was not kept: it is long, looks like a secret, or keep_variables is off"
            )
            self.missing.append(
                f"the environment variable {name}, which this run read, {how} ({kind}): give it with --env-var {name}=VALUE or --env-file"
                + (f", or --env-var {name} to take today's" if there else "")
            )

    def secret(self, what: str, name: str, digest: str) -> None:
        """A likely secret of the command line or of an argument."""
        if name in self.secrets:
            return
        value = self._supplied.get(name)
        self.used.add(name)
        if value is None:
            held = self.environment.get(name)
            if held is not None and self._equals(digest, held):
                self.secrets[name] = held
                return
            # Whoever passed it on the command line often has it in the environment, too, under a name of its own.
            value = next((v for v in self._today.values() if self._equals(digest, v)), None)
            if value is not None:
                self.secrets[name] = value
                return
            self.missing.append(
                f"{what} looked like a secret, so its value was not kept: give it with --env-var {name}=VALUE or --env-file"
            )
            return
        self.secrets[name] = value
        if self._equals(digest, value):
            self.supplied.append(f"{name} was given by the asker, with its recorded value")
        else:
            self._other(name)

    def _other(self, name: str) -> None:
        """The asker gives another value: what depends on it, nobody knows, not even of a token."""
        self.others = True
        words = f"{name} was given by the asker, with another value than the recorded one"
        self.supplied.append(words)
        self.doubts.append(words)

    def rest(self) -> None:
        """What the asker supplies besides, and what was only listed."""
        for name in sorted(self._supplied.keys() - self.used):
            self.environment[name] = self._supplied[name]
            self.supplied.append(f"{name} was given by the asker; this run did not read it")
        if self._listed:
            names = ", ".join(self._listed[:SHOWN]) + (
                f" and {len(self._listed) - SHOWN} more" if len(self._listed) > SHOWN else ""
            )
            self.doubts.append(
                f"the program read all environment variables at once, or started a process with them, and {names} can't be given back"
            )

    def _equals(self, digest: str | None, value: str | None) -> bool:
        if not digest or value is None:
            return False
        if self._key is None:
            if not (self._home / KEY_FILE).exists():
                return False
            try:
                self._key = project_key(self._home)
            except OSError as error:
                raise ReplayError(f"the key of {self._home} can't be read: {error}") from error
        return keyed_digest(self._key, value) == digest


def read_supplied(values: Iterable[str], files: Iterable[Path | str]) -> dict[str, str]:
    """What an asker gives: `NAME=VALUE`, `NAME` (today's value), and files of such lines.

    Args:
        values: as given to `--env-var`.
        files: as given to `--env-file`; a later line wins, a value given directly wins over all.

    Raises:
        ReplayError: a name has no value, or a file can't be read.
    """
    from dotenv import dotenv_values

    supplied: dict[str, str] = {}
    for file in files:
        path = Path(file).expanduser()
        if not path.is_file():
            raise ReplayError(f"there is no file {path} to read variables from")
        try:
            lines = dotenv_values(path, interpolate=False)
        except (OSError, UnicodeError) as error:
            raise ReplayError(f"{path} can't be read as NAME=VALUE lines: {error}") from error
        for name, value in lines.items():
            if value is None:
                raise ReplayError(f"{path} gives no value for {name}: write {name}=VALUE")
            supplied[name] = value
    for text in values:
        name, equals, value = text.partition("=")
        if not name.strip("-"):
            raise ReplayError(f"{text!r} is not NAME=VALUE")
        if not equals and name not in os.environ:
            raise ReplayError(f"{name} is not set here: give its value, {name}=VALUE")
        supplied[name] = value if equals else os.environ[name]
    return supplied


def variables_of(parts: list[Any]) -> VariableRead:
    """A journal's entry of a variable that was read."""
    return VariableRead(str(parts[1]), str(parts[2]), parts[3], parts[4])
