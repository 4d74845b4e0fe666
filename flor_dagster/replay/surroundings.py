"""How the world of a replay will differ from the recorded one: said before the replay is paid for, and after it, in one form."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flor_dagster.recording.environment import hardware_facts
from flor_dagster.recording.kernels import kernel_differences
from flor_dagster.recording.process_state import state_differences
from flor_dagster.replay.speaking import PACKAGE_PARENT

if TYPE_CHECKING:
    from flor_dagster.replay.given import Given
    from flor_dagster.replay.record import RunRecord

PROBE_SECONDS = 120.0

_PROBE = (
    "import importlib, json, os, sys\n"
    "sys.path.insert(0, sys.argv[1])\n"
    "from flor_dagster.recording.kernels import kernel_facts\n"
    "from flor_dagster.recording.process_state import give_back_process_state, read_process_state\n"
    "give_back_process_state(json.loads(sys.argv[3]))\n"
    "for name in json.loads(sys.argv[2]):\n"
    "    try:\n"
    "        importlib.import_module(name)\n"
    "    except Exception:\n"
    "        pass\n"
    "sys.stdout.write('\\n' + json.dumps([kernel_facts(), read_process_state()]))\n"
)


def library_facts_of(record: RunRecord) -> dict[str, Any]:
    """What a journal says of the libraries once its training loop began; empty where it never did."""
    return next((parts[1] for _, kind, parts in record.events if kind == "i"), {})


def hardware_differences(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """How two machines differ in what numbers may depend on, each in words; what one does not tell is not compared.

    Args:
        recorded: the run's `hardware`.
        here: the replay's, or this machine's.
    """
    found = [
        f"{words} was {recorded[key] or 'none'} and is {here[key] or 'none'}"
        for key, words in (("machine", "the machine"), ("cpu", "the processor"), ("gpus", "the GPU"))
        if key in recorded and key in here and recorded[key] != here[key]
    ]
    before, after = set(recorded.get("features") or ()), set(here.get("features") or ())
    if before and after and before != after:
        lacks, more = sorted(before - after), sorted(after - before)
        words = " and ".join(
            [f"lacks {', '.join(lacks)}"] * bool(lacks) + [f"has {', '.join(more)} besides"] * bool(more)
        )
        found.append(f"the processor {words}")
    return found


def surrounding_differences(recorded: RunRecord, replayed: RunRecord) -> list[str]:
    """What the two processes differed in, from what each journal says of its own, each in words: kernels, threads, flags, locale."""
    before, after = recorded.header, replayed.header
    found: list[str] = []
    # Whether a seed that the run drew itself matters is tried out.
    if before.get("hashseed") not in (None, "random", after.get("hashseed")):
        found.append(
            f"the hash seed was {before.get('hashseed')} and is {after.get('hashseed') or 'not set'}"
        )
    found += [
        f"{what} was {before.get(name)} and is {after.get(name)}"
        for name, what in (("python", "Python"), ("platform", "platform"), ("cores", "number of cores"))
        if before.get(name) != after.get(name) and before.get(name) is not None
    ]
    old, new = library_facts_of(recorded), library_facts_of(replayed)
    then, now = before.get("variables") or {}, after.get("variables") or {}
    kernels = kernel_differences(old.get("kernels") or {}, new.get("kernels") or {}, then, now)
    said = " ".join(kernels)
    found = kernels + found + state_differences(before.get("process") or {}, after.get("process") or {})
    found += hardware_differences(before.get("hardware") or {}, after.get("hardware") or {})
    found += [
        f"the variable {name} was {then.get(name, 'not set')} and is {now.get(name, 'not set')}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name) and name not in _REPLAYS_OWN and name not in said
    ]
    return found


# The seed is said in words of its own.
_REPLAYS_OWN = frozenset({"PYTHONHASHSEED"})


def foreseen_differences(record: RunRecord, given: Given, interpreter: str, *, probe: bool) -> list[str]:
    """How the world of a run's replays will differ from the recorded one, in words, before any is carried out.

    On the recorded machine, with the recorded packages, variables and options, libraries do what they did; otherwise they
    are asked, in a process of their own that is given what a replay would be.

    Args:
        record: the run's journals.
        given: what its replays are given.
        interpreter: what executes them.
        probe: whether the interpreter or its packages differ.
    """
    header = record.header
    hardware = hardware_differences(header.get("hardware") or {}, _this_machine())
    supplied = [words for words in given.supplied if not words.endswith("its recorded value")]
    found = [*supplied, *given.notes, *hardware]
    if given.doubt and given.doubt not in found:
        found.append(f"its answers can't be exact: {given.doubt}")
    recorded = library_facts_of(record)
    affinity = (header.get("process") or {}).get("affinity")
    fewer = isinstance(affinity, int) and affinity > len(os.sched_getaffinity(0))
    if not (probe or hardware or given.doubt or fewer) or not recorded.get("kernels"):
        return found
    libraries = tuple(name for name, version in recorded.get("versions", {}).items() if version)
    environment = tuple(sorted(given.environment.items()))
    state = json.dumps(header.get("process") or {}, sort_keys=True)
    answer = _probed(interpreter, given.options, environment, libraries, state)
    if answer is not None:
        then = header.get("variables") or {}
        found += kernel_differences(recorded["kernels"], answer[0], then, given.environment)
        found += state_differences(header.get("process") or {}, answer[1])
    return list(dict.fromkeys(found))


@functools.lru_cache(1)
def _this_machine() -> dict[str, Any]:
    return hardware_facts()


@functools.lru_cache(32)
def _probed(
    interpreter: str,
    options: tuple[str, ...],
    environment: tuple[tuple[str, str], ...],
    libraries: tuple[str, ...],
    state: str,
) -> list[dict[str, Any]] | None:
    """What the libraries would use under these variables; None where they can't be asked: the replay itself will say."""
    try:
        done = subprocess.run(
            [interpreter, *options, "-P", "-c", _PROBE, PACKAGE_PARENT, json.dumps(libraries), state],
            env={**dict(environment), "FLOR_OFF": "1"}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=True, timeout=PROBE_SECONDS, cwd="/",
        )  # fmt: skip
        return json.loads(done.stdout.rpartition("\n")[2])
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
