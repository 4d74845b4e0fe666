"""What a training does to descriptors that it does not know of neither loses records nor writes into its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recording.record_lab import Project

CLOSES_ALL = """\
import os
import flor_dagster as flor

for epoch in flor.loop("epoch", range(4)):
    flor.log("before", float(epoch))
    if epoch == 1:
        os.closerange(3, 65536)
        table = open("metrics.csv", "w")
        more = [open(f"more{n}.txt", "w") for n in range(8)]
    if epoch >= 1:
        table.write(f"{epoch}\\n")
        table.flush()
    flor.log("after", float(epoch))
    flor.log("named", {"epoch": epoch})
open("data.txt").read()
"""


@pytest.mark.parametrize("everything", ["hot", "cold"])
def test_a_training_that_closes_every_descriptor_keeps_its_records_and_its_files(
    tmp_path: Path, everything: str
) -> None:
    project = Project(tmp_path, git=True)
    project.commit({"data.txt": "1"})
    source = CLOSES_ALL if everything == "hot" else CLOSES_ALL.replace("float(epoch)", "epoch")
    run = project.run(source)
    assert (tmp_path / "metrics.csv").read_text() == "1\n2\n3\n"
    assert all((tmp_path / f"more{n}.txt").read_text() == "" for n in range(8))
    assert [name for name, _, _ in run.records()] == ["before", "after", "named"] * 4
    assert run.status == "finished"
    assert "data.txt" in (run.path.parent / "files.jsonl").read_text()
    assert not run.of("w") or all("lost" not in entry for entry in run.of("w"))
    assert "it was opened again" in run.err


TAKES_THE_NUMBER = """\
import os, time
import flor_dagster as flor

for epoch in flor.loop("epoch", range(4)):
    flor.log("loss", float(epoch))
    if epoch == 1:
        mine = [fd for fd in range(3, 4096) if "journal.0" in os.path.realpath(f"/proc/self/fd/{fd}")]
        table = open("metrics.csv", "w")
        for fd in mine:
            os.dup2(table.fileno(), fd)
        time.sleep(1.1)
print(mine)
"""


def test_a_number_that_leads_to_another_file_is_left_to_it_and_the_loss_is_counted(tmp_path: Path) -> None:
    run = Project(tmp_path).run(TAKES_THE_NUMBER)
    assert [value for name, _, value in run.records() if name == "loss"] == [0.0, 1.0, 2.0, 3.0]
    assert run.status == "finished"
    assert (tmp_path / "metrics.csv").read_text() == ""
    assert "given to another file" in run.err
    assert any(entry[1] == "lost" for entry in run.of("w"))


def test_our_descriptors_have_numbers_that_no_file_comes_to_by_itself(tmp_path: Path) -> None:
    source = (
        "import os\nimport flor_dagster as flor\nflor.log('x', 1.0)\n"
        "print(sorted(fd for fd in map(int, os.listdir('/proc/self/fd')) if '.flor' in os.path.realpath(f'/proc/self/fd/{fd}')))\n"
    )
    numbers = eval(Project(tmp_path).run(source).out.strip())
    assert numbers
    assert min(numbers) > 100
