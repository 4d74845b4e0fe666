"""The views that SQL may read: what they are called, what their columns mean, and how each database makes them.

The tables behind them may change with any release; these do not. Names and columns are the same on both databases.
"""

from __future__ import annotations

from dataclasses import dataclass

from flor_dagster.store.schema import FLOATS


@dataclass(frozen=True, slots=True)
class View:
    """One view: its name, what a row is, its columns, and the query behind it, in words of `_WORDS`."""

    name: str
    row: str
    columns: tuple[str, ...]
    query: str


# What the databases call differently. A time is text in SQLite ('2026-03-01T12:00:00.000Z', UTC), a timestamptz in PostgreSQL.
_WORDS = {
    "sqlite": {
        "time": "strftime('%Y-%m-%dT%H:%M:%fZ', {0} / 1000000000.0, 'unixepoch')",
        "float": "REAL",
        "infinity": "9e999",
        "text": "{0}",
    },
    "postgresql": {
        "time": "to_timestamp({0} / 1000000000.0)",
        "float": "DOUBLE PRECISION",
        "infinity": "'Infinity'::float8",
        "text": "({0})::text",
    },
}

# `u.id >= ''` and its like are always true: SQLite's authorizer is not told for what a table is read of which no column is used.
_RECORDS = """
SELECT u.key AS run, j.rank AS rank, COALESCE(c.path, '{{}}') AS path, l.name AS loop, c.idx AS iteration, n.name AS name,
       t.key AS statement,
       CASE WHEN r.kind = 1 THEN [text:{number}] WHEN r.text IS NULL THEN [text:r.whole] ELSE r.text END AS value,
       CASE WHEN r.kind = 1 THEN {number} ELSE r.whole END AS number,
       CASE WHEN j.replay_id IS NULL THEN 'recorded' ELSE 'replayed' END AS origin,
       CASE WHEN j.replay_id IS NULL THEN 'recorded'
            WHEN x.replay_id = j.replay_id AND x.fidelity IS NOT NULL THEN x.fidelity
            ELSE COALESCE(p.fidelity, 'unverified') END AS fidelity,
       CASE WHEN j.replay_id IS NULL THEN 'certain' ELSE COALESCE(x.place, 'unchecked') END AS place
FROM {s}records r
JOIN {s}journals j ON j.journal = r.journal
JOIN {s}runs u ON u.run = j.run AND u.id >= ''
JOIN {s}call_sites s ON s.site = r.site
LEFT JOIN {s}statements t ON t.id = s.statement_id
JOIN {s}names n ON n.name_id = COALESCE(t.name_id, s.name_id) AND n.name >= ''
LEFT JOIN {s}contexts c ON c.run = j.run AND c.rank = j.rank AND c.ctx = r.ctx
LEFT JOIN {s}loops l ON l.run = j.run AND l.rank = j.rank AND l.loop = c.loop
LEFT JOIN {s}replays p ON p.id = j.replay_id
LEFT JOIN {s}cells x ON x.run = j.run AND x.statement_id = s.statement_id
"""
_OF_RECORDS = (
    "run", "rank", "path", "loop", "iteration", "name", "statement", "value", "number", "origin", "fidelity", "place",
)  # fmt: skip
_NOT_DIVERGED = "SELECT * FROM (" + _RECORDS + ") AS every_record WHERE fidelity <> 'diverged'"

VIEWS: tuple[View, ...] = (
    View(
        "runs",
        "a training run",
        ("run", "id", "status", "reason", "entrypoint", "version", "started", "ended", "seconds", "origin", "lost", "approximate"),
        "SELECT key AS run, id, status, reason, entrypoint, commit_id AS version, [time:started] AS started, [time:ended] AS ended, "
        "(ended - started) / 1000000000.0 AS seconds, origin, lost, approximate FROM {s}runs",
    ),
    View(
        "args",
        "an argument of a training run; `number` is its value where it is one, `value` its text, or JSON",
        ("run", "name", "value", "number", "source"),
        "SELECT u.key AS run, a.name, "
        "CASE WHEN substr(a.value, 1, 1) = '\"' AND replace(a.value, '\\', '') = a.value "
        "THEN substr(a.value, 2, length(a.value) - 2) ELSE a.value END AS value, "
        "CASE WHEN substr(a.value, 1, 1) IN ('-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9') AND length(a.value) < 300 "
        "THEN CAST(a.value AS [float]) "
        "WHEN a.value LIKE '{{\"$\":%float%7ff0000000000000%' THEN [infinity] "
        "WHEN a.value LIKE '{{\"$\":%float%fff0000000000000%' THEN -[infinity] END AS number, "
        "a.source FROM {s}args a JOIN {s}runs u ON u.run = a.run AND u.id >= ''",
    ),
    View(
        "records",
        "a logged value, recorded or replayed; without what has diverged",
        _OF_RECORDS,
        _NOT_DIVERGED,
    ),
    View("all_records", "the same with what has diverged", _OF_RECORDS, _RECORDS),
    View("log_view_long", "`records` by its older name", _OF_RECORDS, _NOT_DIVERGED),
    View("log_view_any", "`all_records` by its older name", _OF_RECORDS, _RECORDS),
    View(
        "loops",
        "an execution of a loop",
        ("run", "rank", "name", "execution", "iterations", "how", "seconds"),
        "SELECT u.key AS run, l.rank, l.name, l.ordinal AS execution, l.iterations, l.how, "
        "(l.ended - l.opened) / 1000000000.0 AS seconds FROM {s}loops l JOIN {s}runs u ON u.run = l.run AND u.id >= ''",
    ),
    View(
        "versions",
        "a version of the code: a git commit",
        ("version", "tree", "dirty", "created"),
        "SELECT commit_id AS version, tree, dirty, [time:created] AS created FROM {s}versions",
    ),
    View(
        "statements",
        "a statement that logs a name; `question` is 1 for an open hindsight question",
        ("statement", "name", "expression", "file", "function", "line", "question", "created"),
        "SELECT t.key AS statement, n.name, t.expression, t.file, t.function, t.line, t.question, [time:t.created] AS created "
        "FROM {s}statements t JOIN {s}names n ON n.name_id = t.name_id AND n.name >= ''",
    ),
    View(
        "placements",
        "where a statement stands in a version, or why it is refused there",
        ("statement", "version", "propagator", "status", "verdict", "score", "file", "line", "sentence"),
        "SELECT t.key AS statement, p.commit_id AS version, p.propagator, p.status, p.verdict, p.score, p.file, p.line, p.sentence "
        "FROM {s}placements p JOIN {s}statements t ON t.id = p.statement_id AND t.key >= ''",
    ),
    View(
        "cells",
        "what is known of a training run and a statement",
        ("run", "statement", "status", "fidelity", "place", "rows", "sentence", "updated"),
        "SELECT u.key AS run, t.key AS statement, c.status, c.fidelity, c.place, c.rows, c.sentence, [time:c.updated] AS updated "
        "FROM {s}cells c JOIN {s}runs u ON u.run = c.run AND u.id >= '' JOIN {s}statements t ON t.id = c.statement_id AND t.key >= ''",
    ),
    View(
        "replays",
        "a replay of a training run",
        ("run", "replay", "started", "seconds", "estimated_seconds", "status", "fidelity", "compared_records", "compared_digests", "sentence"),
        "SELECT u.key AS run, p.id AS replay, [time:p.started] AS started, p.seconds, p.estimated_seconds, p.status, p.fidelity, "
        "p.compared_records, p.compared_digests, p.sentence FROM {s}replays p JOIN {s}runs u ON u.run = p.run AND u.id >= ''",
    ),
    View(
        "checkpoints",
        "a checkpoint; `entry` is JSON",
        ("run", "rank", "entry"),
        "SELECT u.key AS run, j.rank, k.entry FROM {s}checkpoints k JOIN {s}journals j ON j.journal = k.journal "
        "JOIN {s}runs u ON u.run = j.run AND u.id >= ''",
    ),
)  # fmt: skip
"""In the order in which they are told."""

NAMES = tuple(view.name for view in VIEWS)


def query_of(view: View, dialect: str, schema: str) -> str:
    """The query behind a view.

    Args:
        view: which.
        dialect: `sqlite` or `postgresql`.
        schema: where the tables are, as SQL quotes it.
    """
    text = view.query.format(s=f"{schema}.", number=FLOATS[dialect])
    for word, means in _WORDS[dialect].items():
        text = text.replace(f"[{word}]", means)
        while (start := text.find(f"[{word}:")) >= 0:
            end = text.index("]", start)
            text = text[:start] + means.format(text[start + len(word) + 2 : end]) + text[end + 1 :]
    return text
