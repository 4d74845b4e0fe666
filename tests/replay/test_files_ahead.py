"""A data file whose time is ahead of the run's clock is known by its content, or as the same file; else the reason is said."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.replay.batch_lab import Batch, Case
from tests.replay.oracle_lab import Asked
from tests.replay.test_data_files import HEAD, LOOP, reading

AHEAD = "import os, time; os.utime({name!r}, (time.time() + 90_000,) * 2)"
LARGE = "1 " * 600_000


def put(name: str, text: str, *, later: float | None = None) -> Callable[[Path], None]:
    """Write a file anew, with a time so many seconds from now."""

    def change(root: Path) -> None:
        (root / name).unlink()
        (root / name).write_text(text)
        if later is not None:
            os.utime(root / name, (time.time() + later,) * 2)

    return change


def each(file: str) -> str:
    """Read in every step, the first time within the loops."""
    read = f'values = [float(v) for v in open("{file}").read().split()]'
    return HEAD + LOOP.format(step=read, asked="sum(values)")


def ahead(source: str, name: str, text: str = "1 2 3", **more: object) -> Case:
    return Case(source, data={name: text}, prepare=AHEAD.format(name=name), oracle=False, **more)  # type: ignore[arg-type]


CASES = {
    "same": ahead(reading("ahead.data"), "ahead.data"),
    "looped": ahead(each("looped.data"), "looped.data"),
    "later": ahead(reading("later.data"), "later.data", between=put("later.data", "1 2 3", later=9e4)),
    "large": ahead(reading("large.data", "len(values)"), "large.data", LARGE),
    "changed": ahead(reading("changed.data"), "changed.data", between=put("changed.data", "1 2 4", later=9e4)),
    "unknown": ahead(reading("unknown.data", "len(values)"), "unknown.data", LARGE, between=put("unknown.data", LARGE, later=9e4)),
    "strange": Case(HEAD + 'values = [7.0]\n' + LOOP.format(step="pass", asked='sum(values) + float(open("strange.data").read())'), data={"strange.data": "1"}, prepare=AHEAD.format(name="strange.data"), oracle=False),
    # What the training itself gives a time ahead of the clock is its output all the same.
    "own": Case(HEAD + LOOP.format(step='values = [float(v) for v in open("own.data").read().split()] if os.path.exists("own.data") else [7.0]\n        open("own.data", "w").write(f"{x}")\n        os.utime("own.data", (4e9, 4e9))', asked="sum(values)")),
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Asked]]]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("FLOR_")]:
            patch.delenv(name)
        folder = tmp_path_factory.mktemp("ahead")
        patch.setenv("FLOR_CACHE", str(folder / "cache"))
        with Batch(folder, "numpy", "json") as batch:
            yield batch.ask(CASES)


@pytest.mark.parametrize("case", ["same", "looped", "later", "large"])
def test_a_file_from_the_future_that_is_the_same_is_read_as_it_was(
    asked: dict[str, dict[str, Asked]], case: str
) -> None:
    (one,) = asked[case].values()
    assert one.fidelity == "exact", one.sentence
    assert {float(text) for _, text in one.values} == {600_000.0 if case == "large" else 6.0}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("changed", "changed.data, which this run read, changed since (its size is the same, its content is not)"),
        ("unknown", "unknown.data, which this run read, had a time ahead of the run's clock, and it can't be shown to be the same now"),
    ],
)  # fmt: skip
def test_one_that_is_not_shown_to_be_the_same_is_named_and_never_exact(
    asked: dict[str, dict[str, Asked]], case: str, words: str
) -> None:
    (one,) = asked[case].values()
    assert one.fidelity != "exact"
    assert words in one.sentence, one.sentence


def test_what_the_training_writes_with_such_a_time_is_no_input(asked: dict[str, dict[str, Asked]]) -> None:
    (one,) = asked["own"].values()
    assert one.right or one.fidelity != "exact", (one.sentence, one.values, one.wanted)


def test_an_unknown_file_from_the_future_is_not_taken_for_the_replays_own(
    asked: dict[str, dict[str, Asked]],
) -> None:
    (one,) = asked["strange"].values()
    assert one.fidelity != "exact", one.sentence
    assert "strange.data" in one.sentence
