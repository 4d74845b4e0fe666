"""The table of the field suite in Markdown: python -m tests.field.table RESULTS, a folder that `FLOR_FIELD_RESULTS` named."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.field.programs import PROGRAMS

KINDS = ("exact", "unverified", "refused", "diverged", "failed", "wrong")


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A row for each program that has results, and one for all of them.

    Args:
        results: program → its cells, as the suite writes them.
    """
    lines = [
        f"| program | commits | cells | {' | '.join(KINDS)} | place to confirm |",
        f"| --- | --- | --- | {' | '.join('---' for _ in KINDS)} | --- |",
    ]
    total: Counter[str] = Counter()
    likely = 0
    for program in PROGRAMS:
        cells = results.get(program.name)
        if cells is None:
            continue
        counts = Counter(str(cell["what"]) for cell in cells)
        confirmed = sum(cell["place"] == "confirmed" for cell in cells)
        commits = ", ".join(version.commit[:8] for version in program.versions)
        link = f"[{program.address.removeprefix('https://github.com/')}]({program.address})"
        lines.append(
            f"| {program.script} of {link} | {commits} | {len(cells)} | "
            + " | ".join(str(counts[kind]) for kind in KINDS)
            + f" | {confirmed} |"
        )
        total += counts
        likely += confirmed
    lines.append(
        f"| all | | {total.total()} | " + " | ".join(str(total[kind]) for kind in KINDS) + f" | {likely} |"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(table({path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}), end="")
