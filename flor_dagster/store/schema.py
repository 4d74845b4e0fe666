"""The tables of the log store.

Rows are the record; `chunks` and `layouts` are derived from them and can be rebuilt at any time. Times are nanoseconds
since the epoch. Structured columns are JSON text in ASCII, so that any text survives in any database.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# SQLite gives out row ids for INTEGER PRIMARY KEY alone.
_id = BigInteger().with_variant(Integer(), "sqlite")

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied", BigInteger, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("commit_id", Text, primary_key=True),
    Column("tree", Text, nullable=False),
    Column("dirty", SmallInteger, nullable=False),
    Column("excluded", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
)

# The git objects of the versions, so that each can be rebuilt from here alone. `data` is NULL for one that is too big.
version_objects = Table(
    "version_objects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("data", LargeBinary),
)

version_archives = Table(
    "version_archives",
    metadata,
    Column("commit_id", ForeignKey("versions.commit_id"), primary_key=True),
    Column("left_out", Text, nullable=False),
    Column("saved", BigInteger, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("run", _id, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("key", Text, nullable=False, unique=True),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("entrypoint", Text, nullable=False),
    Column("commit_id", ForeignKey("versions.commit_id"), index=True),
    Column("started", BigInteger, nullable=False, index=True),
    Column("ended", BigInteger),
    Column("origin", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("header", Text, nullable=False),
    Column("modules", Text, nullable=False),
    Column("approximate", Text, nullable=False, server_default=""),
    Column("ingested_seq", BigInteger, unique=True),
    Column("lost", BigInteger, nullable=False, server_default="0"),
)

# Runs of which something was taken in and not carried through yet; `news` tells one time from the next.
unsettled = Table(
    "unsettled",
    metadata,
    Column("run", ForeignKey("runs.run"), primary_key=True),
    Column("news", BigInteger, nullable=False),
)

replays = Table(
    "replays",
    metadata,
    Column("id", Text, primary_key=True),
    Column("run", ForeignKey("runs.run"), nullable=False, index=True),
    Column("started", BigInteger, nullable=False),
    Column("seconds", Double),
    Column("estimated_seconds", Double),
    Column("status", Text, nullable=False),
    Column("fidelity", Text),
    Column("compared_records", BigInteger, nullable=False),
    Column("compared_digests", BigInteger, nullable=False),
    Column("sentence", Text, nullable=False),
    Column("plan", Text, nullable=False),
)

# `upto` is the byte up to which the journal is in the rows; `chunked_upto` the same of the chunks.
journals = Table(
    "journals",
    metadata,
    Column("journal", _id, primary_key=True),
    Column("run", ForeignKey("runs.run"), nullable=False),
    Column("replay_id", ForeignKey("replays.id"), index=True),
    Column("rank", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("upto", BigInteger, nullable=False),
    Column("chunked_upto", BigInteger, nullable=False),
    Column("end_status", Text),
    Column("end_reason", Text, nullable=False),
    Column("ended", BigInteger),
    UniqueConstraint("run", "name"),
)

args = Table(
    "args",
    metadata,
    Column("run", ForeignKey("runs.run"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("preset", Text, nullable=False),
    Column("source", Text, nullable=False),
)

# Loops and contexts keep the numbers of the recording's journal; what only a replay has seen counts down from -1.
loops = Table(
    "loops",
    metadata,
    Column("run", ForeignKey("runs.run"), primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("loop", BigInteger, primary_key=True, autoincrement=False),
    Column("parent_ctx", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("file", Text, nullable=False),
    Column("function", Text, nullable=False),
    Column("line", Integer, nullable=False),
    Column("col", Integer, nullable=False),
    Column("opened", BigInteger),
    Column("how", Text, nullable=False),
    Column("iterations", BigInteger, nullable=False),
    Column("ended", BigInteger),
    Index("loops_by_name", "name"),
    sqlite_with_rowid=False,
)

# `value` is NULL where the loop's value is the index itself.
contexts = Table(
    "contexts",
    metadata,
    Column("run", ForeignKey("runs.run"), primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("ctx", BigInteger, primary_key=True, autoincrement=False),
    Column("loop", BigInteger, nullable=False),
    Column("idx", BigInteger, nullable=False),
    Column("value", Text),
    Column("path", Text, nullable=False),
    sqlite_with_rowid=False,
)

names = Table(
    "names",
    metadata,
    Column("name_id", _id, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    # How many statement keys were given out for this name; never goes down, so that no key is used twice.
    Column("given", Integer, nullable=False),
)

statements = Table(
    "statements",
    metadata,
    Column("id", _id, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("name_id", ForeignKey("names.name_id"), nullable=False, index=True),
    Column("expression", Text, nullable=False),
    Column("file", Text, nullable=False),
    Column("function", Text, nullable=False),
    Column("loops", Text, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("line", Integer, nullable=False),
    Column("question", SmallInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
)

statement_forms = Table(
    "statement_forms",
    metadata,
    Column("identity", Text, primary_key=True),
    Column("statement_id", ForeignKey("statements.id"), nullable=False, index=True),
)

# `scope` is the commit; for a run without a version `run/<id>`, for a patched replay `replay/<id>`.
call_sites = Table(
    "call_sites",
    metadata,
    Column("site", _id, primary_key=True),
    Column("scope", Text, nullable=False),
    Column("name_id", ForeignKey("names.name_id"), nullable=False, index=True),
    Column("file", Text, nullable=False),
    Column("function", Text, nullable=False),
    Column("line", Integer, nullable=False),
    Column("col", Integer, nullable=False),
    Column("statement_id", ForeignKey("statements.id"), index=True),
    UniqueConstraint("scope", "file", "line", "col", "name_id"),
)

journal_calls = Table(
    "journal_calls",
    metadata,
    Column("journal", ForeignKey("journals.journal"), primary_key=True),
    Column("call", BigInteger, primary_key=True, autoincrement=False),
    Column("site", ForeignKey("call_sites.site"), nullable=False, index=True),
)

# Typed values: see `packing`. `at` is the byte offset of the record in its journal.
records = Table(
    "records",
    metadata,
    Column("journal", ForeignKey("journals.journal"), primary_key=True),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("ctx", BigInteger, nullable=False),
    Column("site", ForeignKey("call_sites.site"), nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("num", Double),
    Column("whole", BigInteger),
    Column("text", Text),
    Index("records_by_site", "site", "journal"),
    sqlite_with_rowid=False,
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("journal", ForeignKey("journals.journal"), primary_key=True),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("entry", Text, nullable=False),
)

uncaptured = Table(
    "uncaptured",
    metadata,
    Column("journal", ForeignKey("journals.journal"), primary_key=True),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("loop", BigInteger, nullable=False),
    Column("idx", BigInteger),
    Column("reasons", Text, nullable=False),
)

run_warnings = Table(
    "warnings",
    metadata,
    Column("journal", ForeignKey("journals.journal"), primary_key=True),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("code", Text, nullable=False),
    Column("message", Text, nullable=False),
)

# What the training printed and logged elsewhere, where it asked for that to be kept.
outputs = Table(
    "outputs",
    metadata,
    Column("journal", ForeignKey("journals.journal"), primary_key=True),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("ctx", BigInteger, nullable=False),
    Column("t", BigInteger, nullable=False),
    Column("channel", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("text", Text, nullable=False),
)

placements = Table(
    "placements",
    metadata,
    Column("statement_id", ForeignKey("statements.id"), primary_key=True),
    Column("commit_id", Text, primary_key=True),
    Column("propagator", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("score", Double),
    Column("sentence", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("diff", Text, nullable=False),
    Column("file", Text, nullable=False),
    Column("line", Integer),
    Column("saved", BigInteger, nullable=False),
    Column("verdict", Text, nullable=False, server_default=""),
    Column("reasons", Text, nullable=False, server_default="[]"),
    Column("place", Text, nullable=False, server_default=""),
)

# A person's word for a place; `place` is a digest: another place of the same statement was not confirmed.
confirmations = Table(
    "confirmations",
    metadata,
    Column("statement_id", ForeignKey("statements.id"), primary_key=True),
    Column("commit_id", Text, primary_key=True),
    Column("place", Text, nullable=False),
    Column("confirmed_by", Text, nullable=False),
    Column("confirmed", BigInteger, nullable=False),
)

cells = Table(
    "cells",
    metadata,
    Column("run", ForeignKey("runs.run"), primary_key=True),
    Column("statement_id", ForeignKey("statements.id"), primary_key=True),
    Column("status", Text, nullable=False),
    Column("fidelity", Text),
    Column("sentence", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("replay_id", Text),
    Column("updated", BigInteger, nullable=False),
    Column("detail", Text, nullable=False),
    Column("coverage", Text, nullable=False, server_default="{}"),
    Column("place", Text),
    Index("cells_by_statement", "statement_id", "status"),
)

# Derived: one journal's values of one call site, packed. `kind` -1 says that they are of mixed kinds: read the rows.
chunks = Table(
    "chunks",
    metadata,
    Column("journal", ForeignKey("journals.journal"), primary_key=True),
    Column("site", ForeignKey("call_sites.site"), primary_key=True),
    Column("kind", SmallInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("ctxs", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("chunks_by_site", "site", "journal"),
)

# Derived: the contexts and loops of one rank of one run, packed.
layouts = Table(
    "layouts",
    metadata,
    Column("run", ForeignKey("runs.run"), primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("upto", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

# What a column of numbers can't hold lies as bits in `text`: infinities, NaN, -0.0. SQLite has no NaN; it is NULL there.
FLOATS = {
    "sqlite": "CASE r.text WHEN '7ff0000000000000' THEN 9e999 WHEN 'fff0000000000000' THEN -9e999 ELSE r.num END",
    "postgresql": (
        "CASE WHEN r.num IS NOT NULL THEN r.num WHEN r.text = '7ff0000000000000' THEN 'Infinity'::float8 "
        "WHEN r.text = 'fff0000000000000' THEN '-Infinity'::float8 ELSE 'NaN'::float8 END"
    ),
}
_VALUE = {
    "sqlite": "CASE WHEN r.kind = 1 THEN {number} WHEN r.text IS NULL THEN r.whole ELSE r.text END",
    "postgresql": "CASE WHEN r.kind = 1 THEN ({number})::text ELSE COALESCE(r.text, r.whole::text) END",
}

_LONG = """
CREATE VIEW log_view_any AS
SELECT u.key AS run, j.rank AS rank, COALESCE(c.path, '{{}}') AS path, n.name AS name, {value} AS value,
       CASE WHEN r.kind = 1 THEN {number} ELSE r.whole END AS number,
       CASE WHEN j.replay_id IS NULL THEN 'recorded' ELSE 'replayed' END AS origin,
       CASE WHEN j.replay_id IS NULL THEN 'recorded'
            WHEN x.replay_id = j.replay_id AND x.fidelity IS NOT NULL THEN x.fidelity
            ELSE COALESCE(p.fidelity, 'unverified') END AS fidelity,
       CASE WHEN j.replay_id IS NULL THEN 'certain' ELSE COALESCE(x.place, 'unchecked') END AS place
FROM records r
JOIN journals j ON j.journal = r.journal
JOIN runs u ON u.run = j.run
JOIN call_sites s ON s.site = r.site
LEFT JOIN statements t ON t.id = s.statement_id
JOIN names n ON n.name_id = COALESCE(t.name_id, s.name_id)
LEFT JOIN contexts c ON c.run = j.run AND c.rank = j.rank AND c.ctx = r.ctx
LEFT JOIN replays p ON p.id = j.replay_id
LEFT JOIN cells x ON x.run = j.run AND x.statement_id = s.statement_id
"""


def views(dialect: str) -> tuple[str, ...]:
    """The SQL views for people: one row per record; the first without what has diverged."""
    return (
        _LONG.format(value=_VALUE[dialect].format(number=FLOATS[dialect]), number=FLOATS[dialect]),
        "CREATE VIEW log_view_long AS SELECT * FROM log_view_any WHERE fidelity <> 'diverged'",
    )
