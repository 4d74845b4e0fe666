"""Every numeric variable that changes a bit here, recorded with and without it, asked with and without it, in every way of asking."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from flor_dagster.errors import FlorError
from flor_dagster.replay.model import Question
from flor_dagster.replay.reproducing import verify_run
from flor_dagster.replay.resuming import resume
from flor_dagster.store.models import RunRow
from tests.replay.conftest import PACKAGE, Lab

pytestmark = pytest.mark.slow

NUMPY = """
import os, time, locale
import numpy as np
import flor_dagster as flor
locale.setlocale(locale.LC_ALL, "")
rng = np.random.default_rng(0)
a = rng.normal(size=(150, 150)).astype(np.float32)
state = np.ones((150, 150), np.float32) / 97
extra = 0.0
#TORCH
for epoch in flor.loop("epoch", range(4)):
    for step in flor.loop("step", range(2)):
        state = np.tanh(a @ state / 11 + np.sin(state) + np.exp(-state * state))
        #STEP
    if epoch == 3 and DIES:
        raise SystemExit(3)
    mark = len("".join(sorted({"a", "b"}))) + hash("x") % 1000 + time.localtime(0).tm_hour
    flor.log("total", float(state.sum()) + extra + mark)
    #? flor.log("again", float(state.sum()) + extra + mark)
"""
TORCH = (
    """import torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv1d(4, 16, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(16 * 48, 7))
sgd = torch.optim.SGD(net.parameters(), lr=0.1)
data = torch.randn(32, 4, 50)
""",
    """sgd.zero_grad(); loss = net(data).exp().mean(); loss.backward(); sgd.step(); extra = loss.item()""",
)


def program_text(setup: str, step: str = "pass") -> str:
    return NUMPY.replace("#TORCH", setup).replace("#STEP", step).replace("and DIES", "and False")


HAS_TORCH = importlib.util.find_spec("torch") is not None

PORTABLE = {
    "numpy": program_text(""), "torch": program_text(TORCH[0], TORCH[1]), "sklearn": """
import numpy as np
import flor_dagster as flor
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.decomposition import PCA
data = np.random.default_rng(0).normal(size=(300, 20))
labels = (data[:, 0] + data[:, 1] ** 2 > 1).astype(int)
for epoch in flor.loop("epoch", range(3)):
    reduced = PCA(6, random_state=epoch).fit_transform(data)
    total = float(KMeans(4, n_init=2, random_state=epoch).fit(reduced).inertia_)
    total += float(LogisticRegression(max_iter=50).fit(reduced, labels).coef_.sum())
    flor.log("total", total)
    #? flor.log("again", total)
""",
}  # fmt: skip

CANDIDATES = {
    "OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": "X86_V3,AVX2,FMA3", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "DNNL_MAX_CPU_ISA": "SSE41", "MKL_NUM_THREADS": "1",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX2_Usable,-FMA_Usable", "PYTHONHASHSEED": "5", "TZ": "Asia/Tokyo",
}  # fmt: skip


def program(*, dies: bool = False, asked: str = "") -> str:
    text = NUMPY.replace("#TORCH", TORCH[0] if HAS_TORCH else "").replace(
        "#STEP", TORCH[1] if HAS_TORCH else ""
    )
    text = text.replace("and DIES", "and os.environ.get('DIES')" if dies else "and False")
    lines = text.splitlines(keepends=True)
    if not asked:
        return "".join(line for line in lines if "#?" not in line)
    return "".join(lines).replace("#? ", "").replace('"again"', f'"{asked}"')


def run(lab: Lab, *, status: int = 0, **variables: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_") and k not in CANDIDATES}
    environment |= {"PYTHONPATH": str(PACKAGE), "FLOR_CHECKPOINTS": "all", "PYTHONHASHSEED": "0", **variables}
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=lab.root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr


def recorded(lab: Lab) -> RunRow:
    with lab.open() as workspace:
        workspace.sync()
        return workspace.runs()[-1]


def question(lab: Lab, name: str, run_: RunRow, **more: object) -> tuple[str | None, str]:
    lab.write({"train.py": program(asked=name)})
    with lab.open() as workspace:
        workspace.ask(name)
        (answer,) = workspace.answer(Question((name,), runs=(run_.key,), **more)).cells  # type: ignore[arg-type]
        frame = workspace.store.dataframe("total", name, runs=[run_.key])
        equal = bool((frame["total"] == frame[name]).all())
        return (
            answer.cell.fidelity if equal else f"{answer.cell.fidelity}, other values",
            answer.cell.sentence,
        )


def cold(lab: Lab, run_: RunRow, name: str) -> tuple[str | None, str]:
    return question(lab, name, run_, warm=False)


def warm(lab: Lab, run_: RunRow, name: str) -> tuple[str | None, str]:
    return question(lab, name, run_, segments=2, workers=2)


def verified(lab: Lab, run_: RunRow, name: str) -> tuple[str | None, str]:
    with lab.open() as workspace:
        found = verify_run(workspace, run_.key)
        return found.fidelity, found.sentence


def locked(lab: Lab, run_: RunRow, name: str) -> tuple[str | None, str]:
    return question(lab, name, run_, environment="uv")


def in_dagster(lab: Lab, run_: RunRow, name: str) -> tuple[str | None, str]:
    import dagster as dg

    from flor_dagster.orchestration import FlorProject, build_flor_definitions

    lab.write({"train.py": program(asked=name)})
    project = FlorProject("matrix", repo=lab.root, entrypoints=["train.py"])
    with dg.DagsterInstance.ephemeral() as instance:
        with project.workspace() as workspace:
            workspace.ask(name)
        job = build_flor_definitions(project).resolve_job_def("matrix_hindsight")
        config = {"ops": {"answer_matrix": {"config": {"statements": [name], "runs": [run_.key]}}}}
        assert job.execute_in_process(instance=instance, run_config=config).success
        with project.workspace() as workspace:
            statement = next(s for s in workspace.store.statements() if s.name == name)
            (cell,) = workspace.store.cells(run_ids=[run_.id], statement_ids=[statement.id])
            return cell.fidelity, cell.sentence


WAYS: dict[str, Callable[[Lab, RunRow, str], tuple[str | None, str]]] = {
    "cold": cold, "warm": warm, "verify": verified, "Dagster": in_dagster, "uv": locked,
}  # fmt: skip


@pytest.mark.parametrize("variable", CANDIDATES)
def test_each_is_exact_whoever_has_it(
    lab: Lab, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in CANDIDATES:
        monkeypatch.delenv(name, raising=False)
    packages = ["numpy", "orjson"] + (["torch"] if HAS_TORCH else [])
    lab.commit(
        {
            "train.py": program(),
            "requirements.txt": "".join(f"{p}=={metadata.version(p).partition('+')[0]}\n" for p in packages),
        }
    )
    wrong: list[str] = []
    totals: list[list[object]] = []
    for then in (True, False):
        lab.write({"train.py": program()})
        run(lab, **({variable: CANDIDATES[variable]} if then else {}))
        row = recorded(lab)
        with lab.open() as workspace:
            totals.append(workspace.store.dataframe("total", runs=[row.key])["total"].tolist())
        for now in (True, False):
            if now:
                monkeypatch.setenv(variable, CANDIDATES[variable])
            else:
                monkeypatch.delenv(variable, raising=False)
            for way, ask in WAYS.items():
                if way == "uv" and not os.environ.get("FLOR_TEST_UV"):
                    continue  # it installs NumPy and torch anew; asked for by hand
                try:
                    fidelity, sentence = ask(lab, row, f"x_{way}_{int(then)}{int(now)}".replace("-", ""))
                except FlorError as error:
                    fidelity, sentence = None, str(error)
                if fidelity != "exact":
                    wrong.append(
                        f"recorded {'with' if then else 'without'}, asked {'with' if now else 'without'}, {way}: {fidelity} {sentence}"
                    )
    assert not wrong, "\n".join(wrong)
    if totals[0] == totals[1]:
        pytest.skip(f"{variable}={CANDIDATES[variable]} changes no bit of this program on this machine")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names kernels of x86-64")
@pytest.mark.parametrize("library", ["numpy", "sklearn", "torch"])
def test_a_portable_run_is_the_same_under_every_capability(
    lab: Lab, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded under one emulated capability, replayed under another."""
    pytest.importorskip(library)
    text = PORTABLE[library]
    lab.commit({"train.py": "".join(line for line in text.splitlines(keepends=True) if "#?" not in line)})
    totals: list[list[object]] = []
    for world in (
        {},
        {name: value for name, value in CANDIDATES.items() if name not in ("TZ", "PYTHONHASHSEED")},
    ):
        for name in CANDIDATES:
            monkeypatch.delenv(name, raising=False)
        for name, value in world.items():
            monkeypatch.setenv(name, value)
        with lab.open() as workspace:
            row = workspace.train("train.py", {}, portable=True)
            totals.append(workspace.store.dataframe("total", runs=[row.key])["total"].tolist())
    assert totals[0] == totals[1]
    for name in CANDIDATES:
        monkeypatch.delenv(name, raising=False)
    lab.write({"train.py": text.replace("#? ", "")})
    with lab.open() as workspace:
        workspace.ask("again")
        answers = workspace.answer(Question(("again",))).cells
        assert {answer.cell.fidelity for answer in answers} == {"exact"}, [a.cell.sentence for a in answers]


@pytest.mark.parametrize("variable", CANDIDATES)
def test_a_resumed_run_ends_as_one_that_never_died(
    lab: Lab, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    lab.commit({"train.py": program(dies=True)})
    world = {variable: CANDIDATES[variable]}
    run(lab, **world)
    whole = recorded(lab)
    run(lab, status=3, DIES="1", **world)
    dead = recorded(lab)
    with lab.open() as workspace:
        new = resume(workspace, dead.key, variables={"DIES": ""})
        found = verify_run(workspace, new.key, variables={"DIES": ""})
        # An empty text is no value that died, and another one than was recorded.
        assert found.fidelity in ("exact", "unverified"), found.sentence
        assert not (found.fidelity == "unverified" and "DIES" not in found.sentence), found.sentence
        totals = [
            workspace.store.dataframe("total", runs=[one.key])["total"].tolist() for one in (whole, new)
        ]
        assert totals[0] == totals[1]


@pytest.mark.parametrize("variable", CANDIDATES)
@pytest.mark.parametrize("then", [True, False], ids=["with", "without"])
def test_ranks_are_exact_whoever_has_it(
    lab: Lab, variable: str, then: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CANDIDATES:
        monkeypatch.delenv(name, raising=False)
    lab.commit({"train.py": program()})
    world = {variable: CANDIDATES[variable]} if then else {}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment |= {"PYTHONPATH": str(PACKAGE), "FLOR_CHECKPOINTS": "all", "PYTHONHASHSEED": "0", **world}
    ranks = [
        subprocess.Popen(
            [sys.executable, "train.py"], cwd=lab.root,
            env=environment | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571"},
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [rank.wait() for rank in ranks] == [0, 0]
    row = recorded(lab)
    for now in (True, False):
        if now:
            monkeypatch.setenv(variable, CANDIDATES[variable])
        else:
            monkeypatch.delenv(variable, raising=False)
        fidelity, sentence = cold(lab, row, f"ranks{int(now)}")
        assert fidelity == "exact", sentence
