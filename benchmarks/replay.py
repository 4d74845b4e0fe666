"""How much faster is hindsight than running everything again?

    python benchmarks/replay.py [--versions 10] [--epochs 20] [--rounds 3] [--folder DIR]
    python benchmarks/replay.py --flordb DIR                 # beside flordb 4.0.1, in an environment made in DIR
    python benchmarks/replay.py --growth FIGURE.svg          # 1 to 50 versions, 1 to 200 epochs

A training (torch, MLP and Adam, one thread, a checkpoint of every epoch) is recorded once per version; then a statement is
asked of all of them. What is compared with is running the versions again with the statement in them, as a person would,
one after the other: two of them are timed with nothing beside them (each does the same work). Every case checks that its
values are bit for bit those of all these runs; without that its ratio is not printed. Wall seconds, and CPU seconds of the whole process tree beside them; on a machine with other work, read the CPU
seconds. Medians of the rounds. `--folder` keeps the trainings for the next time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.replaying.bars import PARTS, bars
from benchmarks.replaying.flordb import beside, installed
from benchmarks.replaying.growth import growth
from benchmarks.replaying.lab import Size, prepare

VERSIONS = (1, 5, 10, 25, 50)
EPOCHS = (1, 20, 50, 100, 200)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, help="steps of 64 rows in an epoch: 120, for the growth 100")
    parser.add_argument("--hidden", type=int, help="units of each hidden layer: 512, for the growth 1024")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the trainings are kept; else they are made anew")
    parser.add_argument("--flordb", type=Path, help="where an environment with flordb lies, or is made")
    parser.add_argument("--only", help=f"parts, by comma: {', '.join(PARTS)}")
    parser.add_argument("--growth", type=Path, help="the figure to draw")
    parser.add_argument("--most-versions", type=int, default=max(VERSIONS), help="how far the growth goes")
    chosen = parser.parse_args()
    if chosen.growth:
        versions = [n for n in VERSIONS if n <= chosen.most_versions]
        growth(versions, EPOCHS, chosen.steps or 100, chosen.hidden or 1024, chosen.growth, chosen.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.folder or Path(temporary)).absolute()
        os.environ["FLOR_CACHE"] = str(folder / "cache")
        prepared = prepare(
            folder, Size(chosen.epochs, chosen.steps or 120, chosen.hidden or 512), chosen.versions
        )
        bars(prepared, chosen.rounds, chosen.only.split(",") if chosen.only is not None else PARTS)
        if chosen.flordb:
            beside(prepared, Path(temporary) / "flordb", installed(chosen.flordb.absolute()))


if __name__ == "__main__":
    main()
