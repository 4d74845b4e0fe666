"""What surrounds a process and decides its values is given back to its replays, or named before anything runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from flor_dagster.cli import cli
from flor_dagster.errors import ReplayError
from flor_dagster.recording.journal import read_journal
from flor_dagster.recording.portable import portable_variables
from flor_dagster.replay.given import read_supplied
from flor_dagster.replay.model import CellAnswer, Question
from flor_dagster.replay.reproducing import verify_run
from tests.replay.conftest import PACKAGE, Lab

pytestmark = pytest.mark.ci

NUMBERS = """
import locale, os, sys, time
import numpy as np
import flor_dagster as flor
locale.setlocale(locale.LC_ALL, "")
rng = np.random.default_rng(0)
a = rng.normal(size=(120, 120))
state = np.ones((120, 120)) / 97
mark = 0
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        state = np.tanh(a @ state / 11 + np.sin(state))
        mark = len({"a", "b", "c"} - {next(iter({"a", "b", "c", "d"}))}) + hash("x") % 1000
    flor.log("total", float(state.sum()))
    flor.log("where", [time.localtime(0).tm_hour, locale.setlocale(locale.LC_CTYPE, None), sys.flags.optimize, mark])
    #? flor.log("norm", float((state @ state.T).sum()))
    #? flor.log("around", [time.localtime(0).tm_hour, locale.setlocale(locale.LC_CTYPE, None), sys.flags.optimize, mark])
"""
WORLD = {
    "OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": "X86_V3,AVX2,FMA3", "OPENBLAS_NUM_THREADS": "1",
    "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7", "PYTHONOPTIMIZE": "1",
}  # fmt: skip


def write(lab: Lab, text: str) -> None:
    """Commit the version without what is asked, train by the caller, ask with it in the work tree."""
    lab.commit({"train.py": "".join(line for line in text.splitlines(keepends=True) if "#?" not in line)})


def train(
    lab: Lab, *arguments: str, interpreter: tuple[str, ...] = (), umask: int = 0o022, **variables: str
) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment |= {"PYTHONPATH": str(PACKAGE), "FLOR_CHECKPOINTS": "all", **variables}
    done = subprocess.run(
        [sys.executable, *interpreter, "train.py", *arguments], cwd=lab.root, env=environment, capture_output=True, text=True,
        preexec_fn=lambda: os.umask(umask) and None,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(
    lab: Lab, text: str, *names: str, variables: Mapping[str, str] | None = None, cold: bool = False
) -> dict[str, CellAnswer]:
    lab.write({"train.py": text.replace("#? ", "")})
    with lab.open() as workspace:
        for name in names:
            workspace.ask(name)
        report = workspace.answer(Question(names, variables=variables or {}, warm=not cold))
    return {answer.statement.name: answer for answer in report.cells}


def values(lab: Lab, name: str) -> list[object]:
    with lab.open() as workspace:
        return workspace.store.dataframe(name)[name].tolist()


@pytest.mark.parametrize("other", [False, True], ids=["asked in another world", "recorded in another world"])
def test_what_decides_numbers_is_given_back_whatever_the_asker_has(
    lab: Lab, other: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lab, NUMBERS)
    recorded, asking = (
        (WORLD, {"TZ": "UTC", "LC_ALL": "C.UTF-8"})
        if other
        else ({"PYTHONHASHSEED": "3", "TZ": "UTC", "LC_ALL": "C.UTF-8"}, WORLD)
    )
    for name in WORLD:
        monkeypatch.delenv(name, raising=False)
    train(lab, **recorded)
    for name, value in asking.items():
        monkeypatch.setenv(name, value)
    found = ask(lab, NUMBERS, "norm", "around")
    assert {a.cell.fidelity for a in found.values()} == {"exact"}, [a.cell.sentence for a in found.values()]
    # The neighbour was recorded by the run itself: the asked one must say the same.
    assert values(lab, "around") == values(lab, "where")


READS = """
import os, sys
import flor_dagster as flor
rate = float(os.environ.get("RATE", "0.5"))
folder = os.environ["DATA_FOLDER"]
token = os.environ.get("SERVICE_TOKEN")
with open(folder + "/x.txt") as file:
    start = float(file.read())
w = start
session = {"token": token, "n": 0}
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        w = w * (1 - rate / 10)
        session["n"] = step
    flor.log("w", w)
    #? flor.log("twice", w * 2 + (0 if token else 1000) + session["n"])
print("token is", token)
"""
SECRET = "s3rv1ce-t0ken-0f-tests"


@pytest.fixture
def reading(lab: Lab, tmp_path: Path) -> Lab:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.txt").write_text("8")
    write(lab, READS)
    train(lab, RATE="0.25", DATA_FOLDER=str(tmp_path / "data"), SERVICE_TOKEN=SECRET)
    return lab


def test_what_the_program_read_is_given_back_or_asked_for_by_its_name(
    reading: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell without the variables; with another folder and rate; with the token; with another token; supplied."""
    (answer,) = ask(reading, READS, "twice").values()
    assert answer.cell.status == "refused"
    assert "SERVICE_TOKEN, which this run read, is not set here" in answer.cell.sentence
    assert "--env-var SERVICE_TOKEN=VALUE" in answer.cell.sentence
    monkeypatch.setenv("SERVICE_TOKEN", "another-t0ken")
    (answer,) = ask(reading, READS, "twice").values()
    assert "SERVICE_TOKEN, which this run read, has another value now" in answer.cell.sentence
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("1000")
    monkeypatch.setenv("DATA_FOLDER", str(tmp_path / "other"))
    monkeypatch.setenv("RATE", "0.9")
    monkeypatch.setenv("SERVICE_TOKEN", SECRET)
    (answer,) = ask(reading, READS, "twice").values()
    assert answer.cell.fidelity == "exact", answer.cell.sentence
    assert values(reading, "twice") == [2 * w + 1 for w in values(reading, "w")]


def test_what_the_asker_supplies_is_said_in_the_answer(reading: Lab) -> None:
    (answer,) = ask(reading, READS, "twice", variables={"SERVICE_TOKEN": "renewed-t0ken-1"}).values()
    # What depends on a token nobody knows: its length does.
    assert answer.cell.fidelity == "unverified", answer.cell.sentence
    assert (
        "SERVICE_TOKEN was given by the asker, with another value than the recorded one"
        in answer.cell.sentence
    )
    reading.write({"train.py": READS.replace("#? ", "").replace("twice", "thrice")})
    (answer,) = ask(
        reading,
        READS.replace("twice", "thrice"),
        "thrice",
        variables={"SERVICE_TOKEN": SECRET, "RATE": "0.5"},
    ).values()
    assert answer.cell.fidelity != "exact"
    assert "RATE was given by the asker, with another value" in answer.cell.sentence


def test_no_secret_is_kept_anywhere(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment, the command line, an argument, an error, what was printed, a state: in no file, and no git object."""
    planted = {
        "SERVICE_TOKEN": SECRET,
        "DATABASE_URL": "postgresql://me:pl4nted-w0rd@db/x",
        "UNREAD_API_KEY": "unr3ad-k3y-0f-tests",
    }
    argument = "c0mmand-l1ne-w0rd"
    text = """
import os, sys
import flor_dagster as flor
flor.capture()
token = os.environ["SERVICE_TOKEN"]
url = os.environ["DATABASE_URL"]
key = flor.arg("api_key", "default-k3y-0f-tests")
config = {"token": token, "url": url, "argv": list(sys.argv), "header": "Bearer " + token}
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        config["n"] = config["header"] + str(step)
    flor.log("config", config)
    #? flor.log("length", len(config["n"]) + len(sys.argv[1]) + len(key))
print("with", token, url, sys.argv[1], os.environ["UNREAD_API_KEY"])
flor.log("message", f"cannot reach {url}")
"""
    write(lab, text)
    train(lab, f"--password={argument}", **planted)
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    given = {"password": argument, "api_key": "default-k3y-0f-tests"}
    (answer,) = ask(lab, text, "length").values()
    assert answer.cell.status == "refused"
    assert "its argument password" in answer.cell.sentence
    assert "api_key" not in answer.cell.sentence, "its default stands in the code"
    del given["api_key"]
    (answer,) = ask(lab, text, "length", variables=given).values()
    assert answer.cell.fidelity == "exact", answer.cell.sentence
    wanted = len("Bearer " + SECRET + "1") + len(f"--password={argument}") + len("default-k3y-0f-tests")
    assert values(lab, "length") == [wanted, wanted]
    secrets = [SECRET, "pl4nted-w0rd", planted["UNREAD_API_KEY"], argument, "default-k3y-0f-tests"]
    holders = [
        p for p in lab.root.rglob("*") if p.is_file() and any(s.encode() in p.read_bytes() for s in secrets)
    ]
    assert holders == [lab.root / "train.py"], "the default stands in the script, and nowhere else"
    objects = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=lab.root, capture_output=True, check=True
    ).stdout
    assert not any(s.encode() in objects for s in secrets[:-1])


def test_what_a_forked_worker_read_is_given_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
import multiprocessing, os
import flor_dagster as flor
def work(n):
    return n * float(os.environ.get("WORKER_RATE", "1"))
with multiprocessing.get_context("fork").Pool(1) as pool:
    for epoch in flor.loop("epoch", range(2)):
        total = sum(pool.map(work, range(3)))
        flor.log("epoch", epoch)
        #? flor.log("total", total)
"""
    write(lab, text)
    train(lab, WORKER_RATE="0.5")
    monkeypatch.setenv("WORKER_RATE", "7")
    (answer,) = ask(lab, text, "total").values()
    assert answer.cell.fidelity == "exact", answer.cell.sentence
    assert values(lab, "total") == [1.5, 1.5]


def test_a_value_made_of_the_folders_path_is_the_recorded_folders(lab: Lab) -> None:
    text = """
import os
from pathlib import Path
import flor_dagster as flor
for epoch in flor.loop("epoch", range(2)):
    flor.log("here", os.getcwd())
    #? flor.log("name", [Path(__file__).resolve().parent.name, Path.cwd().name, os.path.abspath("x")])
"""
    write(lab, text)
    train(lab)
    (answer,) = ask(lab, text, "name").values()
    assert answer.cell.fidelity == "exact", answer.cell.sentence
    assert values(lab, "name") == [[lab.root.name, lab.root.name, str(lab.root / "x")]] * 2


def test_an_answer_of_another_world_is_none_for_who_supplies_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
import os
import flor_dagster as flor
for epoch in flor.loop("epoch", range(2)):
    flor.log("n", epoch)
    #? flor.log("rate", os.environ["RATE"])
"""
    text = text.replace("import os\n", "import os\nrate = os.environ['RATE']\n")
    write(lab, text)
    train(lab, RATE="5")
    (answer,) = ask(lab, text, "rate", variables={"RATE": "6"}).values()
    assert answer.cell.fidelity == "unverified"
    assert values(lab, "rate") == ["6", "6"]
    for _ in range(2):
        (answer,) = ask(lab, text, "rate").values()
        assert answer.cell.fidelity == "exact", answer.cell.sentence
        assert values(lab, "rate") == ["5", "5"]


def test_a_statement_that_fails_tells_no_secret(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
import os
import flor_dagster as flor
token = os.environ["SERVICE_TOKEN"]
key = token.encode()
for epoch in flor.loop("epoch", range(2)):
    for step in flor.loop("step", range(2)):
        key = key + b"."
    flor.log("n", epoch)
    #? flor.log("number", int(token))
    #? flor.log("length", len(key))
"""
    write(lab, text)
    train(lab, SERVICE_TOKEN=SECRET)
    monkeypatch.setenv("SERVICE_TOKEN", SECRET)
    answers = ask(lab, text, "number", "length")
    assert "ValueError" in answers["number"].cell.sentence
    assert answers["length"].cell.fidelity == "exact", answers["length"].cell.sentence
    assert values(lab, "length") == [len(SECRET) + 2, len(SECRET) + 4]
    forms = [SECRET.encode(), SECRET.encode().hex().encode()]
    kept = [p for p in (lab.root / ".flor").rglob("*") if p.is_file()]
    assert not [p for p in kept if any(form in p.read_bytes() for form in forms)]


def test_what_depends_on_the_standard_input_is_never_exact(lab: Lab) -> None:
    text = """
import sys
import flor_dagster as flor
scale = float(sys.stdin.readline() or "1")
for epoch in flor.loop("epoch", range(2)):
    flor.log("n", epoch)
    #? flor.log("scaled", scale * epoch)
"""
    write(lab, text)
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    subprocess.run([sys.executable, "train.py"], cwd=lab.root, env=environment, input=b"4\n", check=True)
    (answer,) = ask(lab, text, "scaled").values()
    assert answer.cell.fidelity == "unverified"
    assert "train.py, line 4, reads the standard input, which is not kept" in answer.cell.sentence


def test_a_statement_that_reads_what_the_run_did_not_is_never_exact(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
import os
import flor_dagster as flor
for epoch in flor.loop("epoch", range(2)):
    flor.log("n", epoch)
    #? flor.log("host", os.environ.get("SOME_SETTING", "none"))
"""
    write(lab, text)
    train(lab, SOME_SETTING="then")
    (answer,) = ask(lab, text, "host").values()
    assert answer.cell.fidelity == "unverified"
    assert "SOME_SETTING, which the recorded run did not" in answer.cell.sentence


def test_a_machines_own_folder_that_the_run_read_and_that_is_another_now_is_never_exact(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
import os
import flor_dagster as flor
home = os.path.expanduser("~/data")
for epoch in flor.loop("epoch", range(2)):
    flor.log("n", epoch)
    #? flor.log("length", len(home))
"""
    write(lab, text)
    (tmp_path / "elsewhere").mkdir()
    train(lab, HOME=str(tmp_path / "elsewhere"))
    (answer,) = ask(lab, text, "length").values()
    assert answer.cell.fidelity == "unverified", answer.cell.sentence
    assert "HOME, which this run read, is another one here" in answer.cell.sentence


def test_a_process_that_the_program_starts_gets_what_it_got(lab: Lab) -> None:
    text = """
import subprocess
import flor_dagster as flor
alpha = float(subprocess.check_output("echo ${ALPHA:-1}", shell=True))
for epoch in flor.loop("epoch", range(2)):
    flor.log("n", epoch)
    #? flor.log("alpha", alpha)
"""
    write(lab, text)
    train(lab, ALPHA="7")
    (answer,) = ask(lab, text, "alpha").values()
    assert values(lab, "alpha") == [7.0, 7.0], answer.cell.sentence


def test_a_file_of_variables_that_the_run_read_is_there_for_its_replays(lab: Lab) -> None:
    """It is left out of versions, as likely secrets are, and linked where the run read it."""
    text = """
import os
import flor_dagster as flor
from dotenv import load_dotenv
load_dotenv()
bias = float(os.environ.get("DOT_BIAS", "1"))
for epoch in flor.loop("epoch", range(2)):
    flor.log("n", epoch)
    #? flor.log("bias", bias)
"""
    lab.write_early({".env": "DOT_BIAS=5\n", ".gitignore": ".env\n"})
    write(lab, text)
    train(lab)
    (answer,) = ask(lab, text, "bias").values()
    assert answer.cell.fidelity == "exact", answer.cell.sentence
    assert values(lab, "bias") == [5.0, 5.0]


def test_interpreter_options_and_umask_are_given_back(lab: Lab) -> None:
    text = """
import os, sys
import flor_dagster as flor
class Kept: pass
checks = 0
try:
    assert False
except AssertionError:
    checks = 1
for epoch in flor.loop("epoch", range(2)):
    mask = os.umask(0); os.umask(mask)
    flor.log("seen", [mask, checks, sys.flags.dev_mode, sys._xoptions.get("own")])
    #? flor.log("asked", [mask, checks, sys.flags.dev_mode])
"""
    write(lab, text)
    train(lab, interpreter=("-O", "-X", "dev"), umask=0o027, PYTHONHASHSEED="0")
    for cold in (True, False):
        name = f"asked{int(cold)}"
        (answer,) = ask(lab, text.replace('"asked"', f'"{name}"'), name, cold=cold).values()
        assert answer.cell.fidelity == "exact", answer.cell.sentence
        assert values(lab, name) == [[0o027, 0, True]] * 2


def test_verify_and_resume_are_given_the_recorded_world(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    text = NUMBERS.replace(
        '    flor.log("total"',
        '    if epoch == 2 and not os.environ.get("GO_ON"):\n        sys.exit(3)\n    flor.log("total"',
    )
    write(lab, text)
    whole = {**WORLD, "SERVICE_TOKEN": SECRET}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")} | {
        "PYTHONPATH": str(PACKAGE),
        "FLOR_CHECKPOINTS": "all",
        **whole,
    }
    died = subprocess.run([sys.executable, "train.py"], cwd=lab.root, env=environment, check=False)
    assert died.returncode == 3
    with lab.open() as workspace:
        workspace.sync()
        (run,) = workspace.runs()
        gone = CliRunner().invoke(
            cli, ["run", "train.py", "--resume", run.key, "--env-var", "GO_ON=1", "--project", str(lab.root)]
        )
        assert gone.exit_code == 0, gone.output
        workspace.sync()
        new = workspace.runs()[-1]
        header = read_journal(lab.root / ".flor" / "runs" / new.id / "journal.0.jsonl")
        assert next(iter(header)).parts[2]["variables"]["OPENBLAS_CORETYPE"] == "Nehalem"
        found = verify_run(workspace, new.key, variables={"GO_ON": "1"})
        assert found.fidelity == "exact", found.sentence


def test_who_resumes_a_training_with_another_value_of_what_it_read_is_told_so(lab: Lab) -> None:
    text = """
import os, sys
import flor_dagster as flor
rate = float(os.environ["LR"])
total = 0.0
for epoch in flor.loop("epoch", range(4)):
    total += rate
    if epoch == 2 and not os.environ.get("GO_ON"):
        sys.exit(3)
    flor.log("total", total)
"""
    write(lab, text)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment |= {"PYTHONPATH": str(PACKAGE), "FLOR_CHECKPOINTS": "all", "PYTHONHASHSEED": "0", "LR": "0.5"}
    assert (
        subprocess.run([sys.executable, "train.py"], cwd=lab.root, env=environment, check=False).returncode
        == 3
    )
    with lab.open() as workspace:
        workspace.sync()
        (run,) = workspace.runs()
    go_on = ["run", "train.py", "--resume", run.key, "--env-var", "GO_ON=1", "--project", str(lab.root)]
    other = CliRunner().invoke(cli, [*go_on, "--env-var", "LR=0.9"])
    assert other.exit_code == 0, other.output
    assert "had another LR: what it read before its restore point stays as it was" in other.output


# What differs is named ---------------------------------------------------------------------------------------------------


def test_the_true_cause_is_named_in_the_plan_and_in_the_diagnosis(lab: Lab) -> None:
    """The kernel, the threads, the locale, the time zone, the hash seed: each put in place of the recorded one."""
    write(lab, NUMBERS)
    train(lab, PYTHONHASHSEED="3", TZ="UTC", LC_ALL="C.UTF-8", OPENBLAS_NUM_THREADS="1")
    planted = {"PYTHONHASHSEED": "4", "TZ": "Asia/Tokyo", "LC_ALL": "C", "OPENBLAS_NUM_THREADS": "2"}
    (answer,) = ask(lab, NUMBERS, "norm", variables=planted).values()
    assert answer.cell.fidelity == "diverged"
    said = answer.cell.sentence
    for words in (
        "the hash seed was 3 and is 4",
        "the variable TZ was UTC and is Asia/Tokyo",
        "the locale was",
    ):
        assert words in said, said
    if os.cpu_count() != 1 and "openblas had" in said:
        assert "OPENBLAS_NUM_THREADS was 1 then and is 2 now" in said


def test_another_kernel_is_named_before_the_replay_is_paid_for(lab: Lab) -> None:
    write(lab, NUMBERS)
    train(lab, PYTHONHASHSEED="0", OPENBLAS_CORETYPE="Nehalem")
    lab.write({"train.py": NUMBERS.replace("#? ", "")})
    with lab.open() as workspace:
        workspace.ask("norm")
        plan = workspace.plan(Question(("norm",), variables={"OPENBLAS_CORETYPE": "Prescott"}))
        warnings = plan.runs[0].detail["warnings"]
        assert any("OPENBLAS_CORETYPE=Prescott was given by the asker; it was Nehalem" in w for w in warnings)
        kernels = [w for w in warnings if "BLAS kernel" in w]
        if kernels:  # else numpy has another BLAS here
            assert "recorded with the BLAS kernel Nehalem" in kernels[0]
            assert "OPENBLAS_CORETYPE was Nehalem then and is Prescott now" in kernels[0]
        assert (
            "variables"
            not in json.loads(
                CliRunner()
                .invoke(
                    cli,
                    [
                        "hindsight",
                        "norm",
                        "--plan",
                        "--json",
                        "--env-var",
                        "A_TOKEN=se-cret-1",
                        "--project",
                        str(lab.root),
                    ],
                )
                .output
            )["plan"]["question"]
        )


def test_options_that_cannot_be_given_back_are_named(lab: Lab) -> None:
    write(lab, NUMBERS)
    train(lab, interpreter=("-O",), PYTHONHASHSEED="0")
    (journal,) = lab.root.glob(".flor/runs/*/journal.0.jsonl")
    # As if this interpreter did not know the option: the record still says that it was set.
    journal.write_bytes(journal.read_bytes().replace(b'"options":["-O"]', b'"options":[    ]'))
    (answer,) = ask(lab, NUMBERS, "norm").values()
    assert answer.cell.fidelity == "diverged"
    assert "the interpreter's flag optimize (-O) was 1 and is 0" in answer.cell.sentence


# Portable ----------------------------------------------------------------------------------------------------------------

X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="names kernels of x86-64")


@X86
def test_a_portable_run_is_the_same_in_every_world_and_exact_on_another_processor_by_what_is_compared(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lab, NUMBERS)
    totals: list[list[object]] = []
    for world in (
        {},
        {
            "OPENBLAS_CORETYPE": "Nehalem",
            "NPY_DISABLE_CPU_FEATURES": "X86_V3",
            "ATEN_CPU_CAPABILITY": "default",
        },
    ):
        for name in portable_variables():
            monkeypatch.delenv(name, raising=False)
        for name, value in world.items():
            monkeypatch.setenv(name, value)
        with lab.open() as workspace:
            run = workspace.train("train.py", {}, portable=True)
            assert run.header["portable"] is True
            totals.append(workspace.store.dataframe("total", runs=[run.key])["total"].tolist())
    assert totals[0] == totals[1]
    # As if both had been recorded by another processor.
    for journal in lab.root.glob(".flor/runs/*/journal.0.jsonl"):
        first, rest = journal.read_bytes().split(b"\n", 1)
        cpu = json.loads(first)[2]["hardware"]["cpu"].encode()
        assert cpu
        journal.write_bytes(first.replace(cpu, cpu[::-1].swapcase()) + b"\n" + rest)
    found = ask(lab, NUMBERS, "norm")
    assert found["norm"].cell.fidelity == "exact", found["norm"].cell.sentence


@X86
def test_a_run_that_is_not_portable_is_never_exact_on_another_processor(lab: Lab) -> None:
    write(lab, NUMBERS)
    train(lab, PYTHONHASHSEED="0")
    (journal,) = lab.root.glob(".flor/runs/*/journal.0.jsonl")
    first, rest = journal.read_bytes().split(b"\n", 1)
    journal.write_bytes(first.replace(b'"features":["avx"', b'"features":["xva"') + b"\n" + rest)
    (answer,) = ask(lab, NUMBERS, "norm").values()
    assert answer.cell.fidelity == "unverified"
    assert "the processor lacks xva" in answer.cell.sentence


def test_a_project_says_that_its_trainings_are_portable(lab: Lab) -> None:
    write(lab, NUMBERS)
    lab.commit({"pyproject.toml": "[tool.flor]\nportable = true\n"})
    with lab.open() as workspace:
        assert workspace.train("train.py", {}).header["portable"] is True
        lab.write({"pyproject.toml": '[tool.flor]\nportable = "maybe"\n'})
        with pytest.raises(ReplayError, match="it may be true or false"):
            workspace.train("train.py", {})


# What the asker gives ----------------------------------------------------------------------------------------------------


def test_variables_are_given_by_value_by_todays_value_and_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_HERE", "today")
    (tmp_path / "some.env").write_text("# secrets\nexport A_TOKEN='x y'\nRATE=1\n--api-key=zzz\n")
    found = read_supplied(["RATE=2", "FROM_HERE"], [tmp_path / "some.env"])
    assert found["A_TOKEN"] == "x y"
    assert found["RATE"] == "2"
    assert found["FROM_HERE"] == "today"
    (tmp_path / "odd.env").write_bytes(b"\xff=1\n")
    with pytest.raises(ReplayError, match="can't be read"):
        read_supplied([], [tmp_path / "odd.env"])
    for values_, files, words in (
        (["=1"], [], "is not NAME=VALUE"), (["NEVER_SET_ANYWHERE"], [], "is not set here"), ([], [tmp_path / "none"], "there is no file"),
    ):  # fmt: skip
        with pytest.raises(ReplayError, match=words):
            read_supplied(values_, files)


def test_doctor_tells_what_a_script_reads(lab: Lab) -> None:
    lab.commit(
        {
            "train.py": "import os\nimport more\nos.environ['A_TOKEN']\nos.getenv('OMP_NUM_THREADS')\n",
            "more.py": "import os\nRATE = os.environ.get('RATE', 1)\n",
        }
    )
    done = CliRunner().invoke(cli, ["doctor", "train.py", "--project", str(lab.root)])
    assert "more.py:2: environment variable RATE: kept where it is short and plain" in done.output
    assert "train.py:3: environment variable A_TOKEN: looks like a secret" in done.output
    assert "train.py:4: environment variable OMP_NUM_THREADS: decides how numbers come out" in done.output
