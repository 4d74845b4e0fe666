"""Every sentence of the rules of capture and skipping: skipped with the right values, or executed and named.

Together, the trainings are modules of one program: recorded once, asked once. Most checkpoints of the outer loops are taken
away before, so that nothing but the inner loops' end states, put back, can make the answers right.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from flor_dagster.recording.journal import read_journal
from flor_dagster.replay.model import Question
from flor_dagster.replay.workspace import Workspace
from tests.recording.rule_lab import Recorded, Rule, RuleLab, train_anew
from tests.recording.rule_table import OTHERS, RULES

pytestmark = pytest.mark.ci

TOGETHER = {name: rule for name, rule in RULES.items() if not rule.alone}


@pytest.fixture(autouse=True)
def _fixed_hashes(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("FLOR_CACHE", str(tmp_path_factory.getbasetemp() / "flor-cache"))


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("matrix")
    program = Rule(script="".join(f"import rule_{name}\n" for name in TOGETHER))
    plain = {f"rule_{n}.py": r.source(n, asked=False) for n, r in TOGETHER.items()}
    asked = {f"rule_{n}.py": r.source(n, asked=True) for n, r in TOGETHER.items()}
    lab = RuleLab(place, {"program": program}, OTHERS | plain)
    lab.oracle.write(asked)
    truth = train_anew(lab.oracle, "program", {"FLOR_CHECKPOINTS": "none"})
    recorded = train_anew(lab.project, "program", {"FLOR_CHECKPOINTS": "all"})
    lab.thin(recorded)
    lab.project.write(asked)
    names = tuple(f"asked_{name}" for name in TOGETHER)
    said: list[str] = []
    with Workspace.open(lab.project.root) as workspace:
        report = workspace.answer(Question(names, runs=(recorded.run,)), on_line=said.append)
    (journal,) = lab.project.root.glob(f".flor/replays/{report.replays[0].id}/journal.0.jsonl")
    replayed = Recorded([e.parts for e in read_journal(journal)], recorded.run, "")
    return truth, recorded, replayed, report, said


def test_nothing_that_was_put_back_was_refused(answered: Any) -> None:
    _, _, _, report, said = answered
    assert len(report.replays) == 1, said
    assert {c.cell.status for c in report.cells} == {"replayed"}, [c.cell.sentence for c in report.cells]


@pytest.mark.parametrize("name", TOGETHER)
def test_it_is_skipped_with_the_right_values_or_executed_and_named(answered: Any, name: str) -> None:
    truth, recorded, replayed, _, said = answered
    wanted = truth.values(f"asked_{name}")
    assert wanted
    assert replayed.values(f"asked_{name}") == wanted, said
    reasons = recorded.reasons(file=f"rule_{name}.py")
    if RULES[name].reason:
        assert any(RULES[name].reason in reason for reason in reasons), reasons
        assert replayed.executions(f"rule_{name}.py", restored=False) > 0
    else:
        assert not reasons
        ends = recorded.ends(f"rule_{name}.py")
        left = {how for _, how, _ in ends}
        kept = {parts[1]["loop"] for parts in recorded.of("k") if parts[1]["index"] is None}
        assert {number for number, how, _ in ends if how in ("exhausted", "break")} <= kept, said
        if left <= {"exhausted", "break"}:
            assert replayed.executions(f"rule_{name}.py", restored=False) == 0
            assert replayed.executions(f"rule_{name}.py", restored=True) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_alone_it_is_never_wrong_and_exact(tmp_path: Path, name: str) -> None:
    if "torch" in RULES[name].script:
        pytest.importorskip("torch", reason="torch is not installed: this rule is not tested")
    os.environ["FLOR_CACHE"] = str(tmp_path / "cache")
    lab = RuleLab(tmp_path, {name: RULES[name]}, OTHERS)
    truth = lab.truth(name)[name]
    recorded = lab.train(name)[name]
    reasons = recorded.reasons()
    assert any(RULES[name].reason in r for r in reasons) if RULES[name].reason else not reasons, reasons
    with lab.look_back() as workspace:
        some = lab.ask(workspace, name, recorded.run, iterations={"epoch": (2,)})
        third = [v for v in truth if v[0].startswith("epoch[2]")]
        assert some.fidelity != "exact" or [v for v in some.values if v[0].startswith("epoch[2]")] == third
        lab.thin(recorded)
        whole = lab.ask(workspace, name, recorded.run)
        assert whole.fidelity != "exact" or whole.values == truth
