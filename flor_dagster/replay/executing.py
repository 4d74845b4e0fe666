"""Carry out one replay: a checkout of our own, a patched source, a child process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flor_dagster.errors import ReplayError
from flor_dagster.propagation import classify_effects, is_plain
from flor_dagster.recording import layout
from flor_dagster.recording.exits import EXIT_DAMAGED, EXIT_EFFECT, EXIT_RESTORE
from flor_dagster.recording.masking import SECRETS, masker_of
from flor_dagster.recording.owners import own_mark
from flor_dagster.recording.questions import OUTPUTS
from flor_dagster.replay.answers import give_back
from flor_dagster.replay.given import given_back
from flor_dagster.replay.inputs import Inputs, changed_since, other_in_version, put_kept, read_inputs
from flor_dagster.replay.lines import shifted
from flor_dagster.replay.outputs import explained
from flor_dagster.replay.patch import Guarded, Patched, patch
from flor_dagster.replay.placing import PlacedVersion
from flor_dagster.replay.planning import LoopPlan
from flor_dagster.replay.record import RunRecord, read_record
from flor_dagster.replay.stuck import Stuck, last_context, where_stuck
from flor_dagster.replay.topology import SCRIPT, first_to_fail, launch_plan, rank_ends, rendezvous_port
from flor_dagster.replay.units import Backend, Ended, Unit
from flor_dagster.store.models import RunRow, StatementRow
from flor_dagster.versions import Clone, Repository, link_untracked

_OF_REPLAYS = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "FLOR_ORIGIN": "replay"}

# Trackers that a script talks to write into the checkout, which goes with the replay, and stay off the network.
_OUTPUTS = OUTPUTS
TAIL_LINES = 20
"""So many of the last lines of a child are kept with what became of it."""


def tracker_variables(root: Path) -> dict[str, str]:
    """What turns other trackers' network off and their files into a folder of the checkout."""
    outputs = root / _OUTPUTS
    return {
        "WANDB_MODE": "offline", "WANDB_DIR": str(outputs), "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": (outputs / "mlruns").as_uri(), "NEPTUNE_MODE": "offline",
        "CLEARML_OFFLINE_MODE": "1", "MPLBACKEND": "Agg",
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a child did: how it ended, its journal, its last lines, how long it took.

    `status` is 0 only where its journal is whole too. `reason` is what went wrong, in words; `stuck` is the hindsight
    statement that it hung in. `journals` are those of its ranks, `journal` is that of the rank that failed first.
    """

    status: int
    journal: Path
    journals: tuple[Path, ...]
    tail: tuple[str, ...]
    seconds: float
    statements: dict[str, dict[int, str]]
    reason: str
    ended: Ended
    stuck: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One segment of a replay of one training run, ready to be carried out.

    `part` tells it from the replay's other segments and attempts. `libraries` are what a warm worker may have imported.
    """

    replay_id: str
    run: RunRow
    record: RunRecord
    placed: PlacedVersion
    statements: tuple[StatementRow, ...]
    loops: LoopPlan
    home: Path
    user_root: Path
    cache: Path
    timeout: float
    part: str = "0"
    libraries: tuple[str, ...] | None = None
    seconds: float = 0.0


def execute(job: Job, backend: Backend, on_line: Callable[[str], None] | None = None) -> Outcome:
    """Carry out one segment in a child process.

    Args:
        job: what is to be done.
        backend: starts the child.
        on_line: told of what goes on, in words.

    Returns:
        The child's outcome; a status other than 0 is not raised here.

    Raises:
        ReplayError: when the version can't be checked out or its files can't be patched.
    """
    folder = layout.replay_folder(job.home, job.replay_id)
    folder.mkdir(parents=True, exist_ok=True)
    if job.run.commit is None:
        raise ReplayError(
            f"training run {job.run.key} has no version: its code was not kept, so it can't be replayed"
        )
    repository = Repository(job.user_root)
    clone = Clone.open(job.user_root, job.cache)
    # A segment has a checkout of its own: what the old code writes must not meet what another segment of it writes.
    work = clone.place / "replays" / f"{job.replay_id}.{job.part}.{own_mark()}"
    held = contextlib.ExitStack()
    try:
        # Its last part is the repository's own name: experiments are named after their folder.
        checkout = clone.checkout(
            job.run.commit, work / (Path(str(job.record.header.get("root") or "")).name or "checkout")
        )
        inputs = read_inputs(job.home, job.run.id, job.record)
        left_out: list[str] = []
        data = _put_data(inputs, job, checkout.path, left_out)
        (checkout.path / _OUTPUTS).mkdir(exist_ok=True)
        statements, asked = _write_files(job, repository, checkout.path)
        ranks = [
            _rank_of(folder, job, record, loops)
            for record, loops in zip(job.record.ranks, job.loops.ranks, strict=True)
        ]
        told = {"data": data, "asked": asked}
        plans = [_child_plan(job, checkout.path, one, statements) | told for one in ranks]
        report = folder / f"ranks.{job.part}.json"
        plan, plan_path = plans[0], folder / f"plan.{job.part}.json"
        if len(plans) > 1:
            port = held.enter_context(rendezvous_port(job.record, job.cache / "ports"))
            plan = launch_plan(job.record, plans, plan_path, report, port)
        plan_path.write_text(json.dumps(plan), encoding="utf-8")
        begins = Path(str(plans[0]["cwd"]))
        if begins.is_relative_to(checkout.path.resolve()):
            begins.mkdir(parents=True, exist_ok=True)  # it may have been an empty one, which no version holds
        if on_line is not None:
            on_line(f"{job.run.key}: {job.loops.sentence}")
        unit = unit_of(job, plan_path, folder / f"output.{job.part}.txt", checkout.path)
        ended = backend.run(unit)
        masker = masker_of(unit.environment, unit.late)
        tail = tuple(map(masker, _tail(Path(unit.output), checkout.path, job.user_root)))
        for one in ranks if ended.why == "timeout" else ():
            one.hung = where_stuck(one.stack, checkout.path, statements)
        status, reason, worst = (
            _judge(ranks[0], ended) if len(ranks) == 1 else _judge_together(ranks, ended, report)
        )
        reason = masker(explained(reason, left_out))
        for one in ranks:
            one.stack.unlink(missing_ok=True)
        if worst is not None and len(ranks) > 1:
            mine = f"rank {worst.record.rank}: "
            tail = tuple(line.removeprefix(mine) for line in tail if line.startswith(mine)) or tail
        journals = tuple(one.journal for one in ranks)
        stuck = next((one.hung.statement for one in ranks if one.hung.statement), "")
        failing = journals[0] if worst is None else worst.journal
        return Outcome(
            status, failing, journals, tail[-TAIL_LINES:], ended.seconds, statements, reason, ended, stuck
        )
    finally:
        held.close()
        shutil.rmtree(work, ignore_errors=True)


def _put_data(inputs: Inputs, job: Job, checkout: Path, missed: list[str]) -> dict[str, Any]:
    """Make the data that is not in git reachable, without what the run itself made in its loops; what the child is told of it."""
    versioned = frozenset(name for name in inputs.read if (checkout / name).exists())

    def left_out(name: str) -> bool:
        try:
            if name.endswith("/") or not inputs.leaves_out(name, (job.user_root / name).stat().st_mtime_ns):
                return False
            # The run may have found its folder.
            missed.append(name)
            if not inputs.answers.missing_early(os.path.dirname(name)):  # noqa: PTH120 - as the run named it
                (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            return True
        except OSError:
            return False

    placed = link_untracked(job.user_root, checkout, left_out, inputs.read)
    put_kept(inputs, checkout)
    give_back(inputs.answers, checkout, job.user_root, _clock_of(job.record)["began"])
    changed = (
        *changed_since(inputs, job.user_root, versioned),
        *other_in_version(inputs, checkout, versioned),
    )
    return {
        "placed": [name for name, _ in placed], "kept": list(inputs.kept), "read": inputs.read, "looped": inputs.looped,
        "ahead": [name for name in inputs.ahead if inputs.came_before(name)],
        "changed": {c.name: [c.sentence, c.certain] for c in changed}, "answers": inputs.answers.plan(inputs.read),
    }  # fmt: skip


def unit_of(job: Job, plan: Path, output: Path, root: Path) -> Unit:
    """The plain description of a job's work."""
    recorded = job.record.header.get("executable")
    interpreter = recorded if recorded and os.access(recorded, os.X_OK) else sys.executable
    given = job.record.given or given_back(job.record, job.home, {})
    late = tracker_variables(root)
    if given.secrets:
        late[SECRETS] = json.dumps(dict(given.secrets))
    return Unit(
        str(plan), str(root.resolve()), str(output), interpreter, {**given.environment, **_OF_REPLAYS}, late,
        job.libraries, job.timeout, job.seconds or job.loops.estimated_seconds, len(job.record.ranks), given.options,
    )  # fmt: skip


@dataclass(slots=True)
class _Rank:
    """One rank of a job, or the one process of it: its record, its plan, its files; where it hung, if it did."""

    record: RunRecord
    loops: LoopPlan
    journal: Path
    stack: Path
    hung: Stuck = field(default_factory=lambda: Stuck("", ""))


def _rank_of(folder: Path, job: Job, record: RunRecord, loops: LoopPlan) -> _Rank:
    part = f"{job.part}.r{record.rank}" if job.record.peers else job.part
    journal = folder / f"part.{part}.jsonl"
    journal.unlink(missing_ok=True)
    return _Rank(record, loops, journal, folder / f"stack.{part}.txt")


def _judge(rank: _Rank, ended: Ended) -> tuple[int, str, _Rank | None]:
    """A child's status and what went wrong, from how it ended and what its journal says."""
    journal, hung = rank.journal, rank.hung
    status, last = journal_end(journal)
    if ended.why == "timeout":
        place = hung.where
        last_place = last_context(journal)
        context = f", in {last_place}" if last_place else ""
        return (
            -signal.SIGKILL,
            f"stopped after {ended.seconds:.0f} s, its time limit:{place}{context or ' no record was made'}",
            rank,
        )
    if ended.why == "stopped":
        return -signal.SIGTERM, "stopped from outside", rank
    if ended.why == "worker":
        return -signal.SIGKILL, "its worker process was lost", rank
    if ended.status < 0:
        name = signal.Signals(-ended.status).name
        memory = " (out of memory?)" if ended.status == -signal.SIGKILL else ""
        return ended.status, f"the child was killed by {name}{memory} after {ended.seconds:.0f} s", rank
    if ended.status:
        return ended.status, last or f"the child left with exit status {ended.status}", rank
    if status == "finished" or (status == "" and rank.record.ended is None and journal.exists()):
        return 0, last, None
    if status == "failed":
        return 1, last, rank
    return 1, "the child ended before its replay was over (os._exit, or its journal was closed)", rank


def _judge_together(ranks: Sequence[_Rank], ended: Ended, report: Path) -> tuple[int, str, _Rank | None]:
    """The status of a job of several ranks: that of the rank which failed first, named."""
    if ended.why == "timeout":
        places = [_judge(rank, ended)[1].partition("its time limit: ")[2] for rank in ranks]
        named = "; ".join(f"rank {r.record.rank}: {place}" for r, place in zip(ranks, places, strict=True))
        stuck = next((rank for rank in ranks if rank.hung.statement), ranks[0])
        return -signal.SIGKILL, f"stopped after {ended.seconds:.0f} s, its time limit: {named}", stuck
    if ended.why:
        return _judge(ranks[0], ended)
    ends = rank_ends(report)
    made = ends.keys() <= {SCRIPT}
    judged: dict[int, tuple[int, str]] = {}
    for number, rank in enumerate(ranks):
        end = ends.get(rank.record.rank)
        if end is not None and end.status is None:
            continue  # ended because another one had failed
        status = end.status if end is not None and end.status is not None else 0 if made else ended.status
        code, reason, _ = _judge(rank, replace(ended, status=status))
        if made and code and journal_end(rank.journal)[0] != "interrupted":
            code = status_in(rank.journal)
        elif made and code:
            continue  # the script ended it because another one had failed
        if code:
            judged[number] = code, reason
    if not judged:
        return (0, "", None) if ended.status == 0 else _judge(ranks[0], ended)
    first = first_to_fail({n: (code, journal_time(ranks[n].journal)) for n, (code, _) in judged.items()})
    code, reason = judged[first]
    return code, f"rank {ranks[first].record.rank}: {reason}", ranks[first]


def _write_files(
    job: Job, repository: Repository, root: Path
) -> tuple[dict[str, dict[int, str]], dict[str, list[int]]]:
    """Write the patched files into the checkout; file → line → statement key, and file → all lines of hindsight statements."""
    by_id = {s.id: s for s in job.statements}
    loops: dict[str, set[tuple[int, int]]] = {}
    for execution in (e for record in job.record.ranks for e in record.executions.values()):
        if execution.function != "<module>" and not Path(execution.file).is_absolute():
            loops.setdefault(execution.file, set()).add((execution.line, execution.column))
    statements: dict[str, dict[int, str]] = {}
    asked: dict[str, list[int]] = {}
    for file in sorted({*loops, *job.placed.files}):
        placed = job.placed.files.get(file)
        text = placed.text if placed is not None else repository.read(job.run.commit or "", file)
        if text is None:
            continue
        added = placed.added if placed is not None else ()
        guarded: list[Guarded] = []
        for statement_id, placement in placed.placements.items() if placed is not None else ():
            row = by_id[statement_id]
            logged = placed.log_lines(statement_id) if placed is not None else ()
            effects = classify_effects(row.expression)
            # What came along with it runs, too.
            alone = len(logged) == placement.lines[1] - placement.lines[0] + 1
            watched = effects in ("unknown", "pure") and not (alone and is_plain(row.expression))
            unknown = effects == "unknown" or not alone
            guarded.append(Guarded(row.key, row.name, placement.lines, logged, watched, unknown))
        sites = [(shifted(line, added), column) for line, column in sorted(loops.get(file, ()))]
        patched: Patched = patch(text, file, sites, guarded)
        _write_text(root / file, patched.source)
        statements[file] = patched.statements
        spans = [one.lines for one in guarded]
        asked[file] = [new for new, old in patched.origin.items() if any(a <= old <= b for a, b in spans)]
    return statements, asked


def _write_text(path: Path, text: str) -> None:
    import tokenize

    with path.open("rb") as file:
        encoding, _ = tokenize.detect_encoding(file.readline)
    mode = path.stat().st_mode
    path.unlink()  # a link or a read-only file is replaced, never written through
    path.write_bytes(text.encode(encoding))
    path.chmod(mode | 0o200)


def _child_plan(job: Job, root: Path, rank: _Rank, statements: dict[str, dict[int, str]]) -> dict[str, Any]:
    record, header = rank.record, rank.record.header
    facts = next((parts[1] for _, kind, parts in record.events if kind == "i"), {})
    return {
        "run": job.run.id, "replay": job.replay_id, "root": str(root.resolve()), "home": str(job.home),
        "user_root": str(job.user_root), "journal": str(rank.journal), "entrypoint": job.run.entrypoint,
        "script": job.run.entrypoint, "module": header.get("module"), "nth": header.get("nth", 1), "alike": header.get("beside"), "argv": _moved(header.get("argv", []), header, root),
        "cwd": _moved([_folder_of(job.run.entrypoint, header) or str(root)], header, root)[0], "args": record.args,
        "begin": record.begin, "drawn": record.drawn, "generators": record.generators, "loops": rank.loops.loops, "statements": statements,
        "ended_badly": not record.finished, "stack": str(rank.stack),
        "own_folders": [str(root.resolve()), str(rank.journal.parent)],
        "torch_threads": facts.get("torch_threads"),
        "pinned": record.pinned,
        "other_machine": header.get("cores") not in (None, os.cpu_count()),
        "rank": record.rank, "world_size": len(job.record.ranks), "launcher": header.get("launcher") or "",
        "clock": _clock_of(record), "unseeded": header.get("hashseed") in (None, "random"),
        "part": job.part, "began": header.get("started") or 0,
        "masked": header.get("masked") or [], "known_variables": sorted(record.variables), "process": header.get("process") or {},
        "module_name": header.get("module_name"), "paths": header.get("paths"), "recorded_root": header.get("root"),
    }  # fmt: skip


def _clock_of(record: RunRecord) -> dict[str, Any]:
    """When a run was: by it values of the clock are known."""
    header = record.header
    known = header.get("clock") or {"began": header.get("started", 0) / 1e9}
    return {**known, "ended": max(record.last_time, header.get("started", 0)) / 1e9}


def _folder_of(entrypoint: str, header: Mapping[str, Any]) -> str | None:
    """Where a script began, or where a function was called."""
    return header.get("cwd") if ":" in entrypoint else header.get("began_in") or header.get("cwd")


def _moved(texts: list[str], header: Mapping[str, Any], root: Path) -> list[str]:
    """Paths into the recorded repository become paths into the checkout."""
    recorded = header.get("root")
    if not recorded:
        return texts
    return [
        str(root) + t[len(recorded) :] if t == recorded or t.startswith(recorded + os.sep) else t
        for t in texts
    ]


def _tail(output: Path, root: Path, user_root: Path) -> tuple[str, ...]:
    """The child's last lines, with the checkout's paths as the repository's."""
    if not output.exists():
        return ()
    text = output.read_bytes()[-20_000:].decode("utf-8", errors="replace")
    text = text.replace(str(root.resolve()), str(user_root)).replace(str(root), str(user_root))
    return tuple(text.splitlines()[-4 * TAIL_LINES :])


def journal_end(journal: Path) -> tuple[str, str]:
    """How a journal says that it ended: status and reason, empty where it has no end."""
    for parts in _last_lines(journal):
        if parts and parts[0] == "z":
            return parts[1], parts[2]
    return "", ""


def status_in(journal: Path) -> int:
    """What a rank that the script made failed of, as its exit status would have said."""
    if not journal.exists():
        return 1
    if any(kind == "x" and parts[1] == "effect" for _, kind, parts in read_record(journal).events):
        return EXIT_EFFECT
    kinds = {"CheckpointError": EXIT_RESTORE, "DamagedCheckpointError": EXIT_DAMAGED}
    return kinds.get(journal_end(journal)[1].partition(":")[0], 1)


def journal_time(journal: Path) -> float:
    """When a journal ended, in nanoseconds; 0 where it has no end."""
    return next((float(parts[3]) for parts in _last_lines(journal) if parts and parts[0] == "z"), 0.0)


def _last_lines(journal: Path) -> list[list[Any]]:
    """The last few entries of a journal, youngest first."""
    if not journal.exists():
        return []
    entries: list[list[Any]] = []
    for raw in reversed(journal.read_bytes().splitlines()[-3:]):
        with contextlib.suppress(ValueError):
            entries.append(json.loads(raw))
    return entries
